#!/bin/sh
# grafana.sh OUT.js: bundles grafana.mjs and Grafana's components, with their style in OUT.css.
# They take 600 MB: fetched once, and kept outside of the project. Later versions have none
# that draws a graph.
set -eu
version=10.1.9
root=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter/grafana-ui@$version
if ! [ -e "$root" ]; then
	rm -rf "$root.new"
	mkdir -p "$root.new"
	npm install --prefix "$root.new" --ignore-scripts --no-audit --no-fund --loglevel=error \
		"@grafana/ui@$version" react@18 react-dom@18 esbuild >&2
	mv "$root.new" "$root"
fi
NODE_PATH=$root/node_modules "$root/node_modules/.bin/esbuild" "$(dirname "$0")/grafana.mjs" \
	--bundle --minify --log-level=error --outfile="$1" \
	--define:global=window --define:process.env.NODE_ENV='"production"'
