# complete.zsh FILE WORD...: what zsh offers for the last of the words, by the completion in FILE.
# It offers something only in a terminal, so it runs in one here.
zmodload zsh/zpty
setup=$(mktemp) offers=$(mktemp)
cat >$setup <<-END
	autoload -Uz compinit && compinit -D -u
	_completed() { source ${(q)1}; }
	compdef _completed execve-counter
	bindkey '^I' complete-word
	compadd() {
		# These ask what would be offered, and offer nothing.
		[[ \${@[1,(i)(-|--)]} == *-[OAD]\ * ]] && { builtin compadd "\$@"; return; }
		local -a hits
		builtin compadd -O hits "\$@"
		print -rl -- \$hits >>$offers
	}
	comppostfuncs=(exit)
END
zpty shell zsh -f -i
zpty -w shell "source $setup"
zpty -w -n shell "${(j: :)${(q)@[2,-2]}} ${@[-1]}"$'\t'
while zpty -r shell; do :; done >/dev/null
sed '/^$/d' $offers
rm $setup $offers
