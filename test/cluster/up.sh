#!/bin/sh
# up.sh PROGRAMS DIRECTORY [GROUP/VERSION...]: what cluster.sh runs in its namespaces. Starts the
# programs, and returns once the node is ready.
set -eu
bin=$1 directory=$2
shift 2
groups=$*
export PATH="$bin:$PATH" KUBECONFIG="$directory/kubeconfig"
cd "$directory"
mkdir log pki
ln -s "$bin" bin

# start PROGRAM FLAG...
start() {
	"$@" >"log/$1.log" 2>&1 </dev/null &
	echo $! >"log/$1.pid"
}

# await PROGRAM COMMAND...: until the command succeeds, as long as the program runs.
await() {
	program=$1
	shift
	for _ in $(seq 600); do
		"$@" >/dev/null 2>&1 && return
		kill -0 "$(cat "log/$program.pid")" 2>/dev/null || break
		sleep 0.2
	done
	tail -n 20 "log/$program.log" >&2
	echo "cluster: $program has ended, or takes more than two minutes" >&2
	exit 1
}

# certificate NAME SUBJECT: by the authority, for a client and for every address here.
certificate() {
	openssl req -x509 -CA pki/ca.crt -CAkey pki/ca.key -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
		-keyout "pki/$1.key" -out "pki/$1.crt" -days 2 -subj "$2" -addext \
		'subjectAltName=DNS:localhost,DNS:node0,DNS:custom.kube-system.svc,IP:127.0.0.1,IP:10.96.0.1,IP:10.203.0.1' \
		2>/dev/null
}

# kubeconfig CERTIFICATE
kubeconfig() {
	cat <<-END
		apiVersion: v1
		kind: Config
		current-context: here
		contexts: [{ name: here, context: { cluster: here, user: $1 } }]
		clusters: [{ name: here, cluster: { server: "https://10.96.0.1", certificate-authority: $directory/pki/ca.crt } }]
		users: [{ name: $1, user: { client-certificate: $directory/pki/$1.crt, client-key: $directory/pki/$1.key } }]
	END
}

# image NAME ENTRYPOINT: of busybox alone.
image() {
	mkdir -p image/root/bin
	cp /bin/busybox image/root/bin/busybox
	ln -sf busybox image/root/bin/sh
	sha=$(tar -C image/root --owner=0 --group=0 -c . | tee image/layer.tar | sha256sum | cut -d ' ' -f 1)
	echo "{\"architecture\":\"$(dpkg --print-architecture)\",\"os\":\"linux\",\"config\":{\"Entrypoint\":$2},
		\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$sha\"]}}" >image/config.json
	echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$1\"],\"Layers\":[\"layer.tar\"]}]" >image/manifest.json
	tar -C image -c manifest.json config.json layer.tar | ctr -a containerd.sock -n k8s.io images import - >/dev/null
	rm -r image
}

# The address of the service "kubernetes" is the node's own, so pods reach the API without kube-proxy.
ip link set lo up
ip address add 10.203.0.1/32 dev lo
ip address add 10.96.0.1/32 dev lo

# kubelet sets these for the whole machine; here it finds files in their place.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
	kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	mkdir -p "sysctl/${name%/*}"
	cat "/proc/sys/$name" >"sysctl/$name"
	mount --bind "sysctl/$name" "/proc/sys/$name"
done

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout pki/ca.key -out pki/ca.crt \
	-days 2 -subj /CN=ca 2>/dev/null
certificate server /CN=kube-apiserver
certificate admin /O=system:masters/CN=admin
certificate node /O=system:nodes/CN=system:node:node0
certificate proxy /CN=proxy
kubeconfig admin >kubeconfig
kubeconfig node >node.kubeconfig
# How a server finds who asks, when the API server passes a request on.
proxied='--requestheader-client-ca-file=pki/ca.crt --requestheader-allowed-names=proxy
	--requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
	--requestheader-extra-headers-prefix=X-Remote-Extra-'
served='--client-ca-file=pki/ca.crt --tls-cert-file=pki/server.crt --tls-private-key-file=pki/server.key'

start etcd --data-dir=etcd --unsafe-no-fsync --log-level=warn
# shellcheck disable=SC2086 # these are words
start kube-apiserver $served $proxied --secure-port=443 --etcd-servers=http://127.0.0.1:2379 \
	--service-cluster-ip-range=10.96.0.0/16 --advertise-address=10.203.0.1 --endpoint-reconciler-type=none \
	--service-account-issuer=https://kubernetes.default.svc --service-account-signing-key-file=pki/server.key \
	--service-account-key-file=pki/server.crt --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
	--allow-privileged --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key \
	--kubelet-certificate-authority=pki/ca.crt --kubelet-preferred-address-types=InternalIP \
	--proxy-client-cert-file=pki/proxy.crt --proxy-client-key-file=pki/proxy.key
await kube-apiserver kubectl get --raw /readyz
# As many requests as they like, for tests with many nodes.
requests='--kube-api-qps=1000 --kube-api-burst=1000'
# shellcheck disable=SC2086 # these are words
start kube-controller-manager $requests --kubeconfig=kubeconfig --leader-elect=false --use-service-account-credentials \
	--service-account-private-key-file=pki/server.key --root-ca-file=pki/ca.crt
# shellcheck disable=SC2086
start kube-scheduler $requests --kubeconfig=kubeconfig --leader-elect=false

mkdir cni
cat >cni/pods.conflist <<-END
	{ "cniVersion": "0.4.0", "name": "pods", "plugins": [{ "type": "bridge", "bridge": "pods", "isGateway": true,
	  "ipam": { "type": "host-local", "dataDir": "$directory/addresses", "ranges": [[{ "subnet": "10.244.0.0/24" }]],
	    "routes": [{ "dst": "0.0.0.0/0" }] } }] }
END
cat >containerd.toml <<-END
	version = 2
	root = "$directory/containerd"
	state = "$directory/containerd-state"
	[grpc]
	address = "$directory/containerd.sock"
	[plugins."io.containerd.internal.v1.opt"]
	path = "$directory/opt"
	[plugins."io.containerd.grpc.v1.cri"]
	sandbox_image = "localhost/pause:1"
	restrict_oom_score_adj = true
	disable_apparmor = true
	netns_mounts_under_state_dir = true
	[plugins."io.containerd.grpc.v1.cri".cni]
	bin_dir = "$bin"
	conf_dir = "$directory/cni"
END
start containerd -c containerd.toml
await containerd ctr -a containerd.sock version
image localhost/pause:1 '["/bin/busybox","sleep","2147483647"]'
image localhost/busybox:1 '["/bin/sh"]'
echo 'nameserver 127.0.0.1' >resolv.conf
cat >kubelet.yaml <<-END
	apiVersion: kubelet.config.k8s.io/v1beta1
	kind: KubeletConfiguration
	address: 10.203.0.1
	authentication: { anonymous: { enabled: false }, x509: { clientCAFile: $directory/pki/ca.crt } }
	authorization: { mode: Webhook }
	tlsCertFile: $directory/pki/server.crt
	tlsPrivateKeyFile: $directory/pki/server.key
	resolvConf: $directory/resolv.conf
	cgroupRoot: /${directory##*/}
	failSwapOn: false
	makeIPTablesUtilChains: false
	oomScoreAdj: 0
	imageGCHighThresholdPercent: 100
	evictionHard: { memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1% }
	nodeStatusUpdateFrequency: 4s
	syncFrequency: 10s
END
start kubelet --config=kubelet.yaml --kubeconfig=node.kubeconfig --container-runtime=remote \
	--container-runtime-endpoint="unix://$directory/containerd.sock" --root-dir="$directory/kubelet" \
	--hostname-override=node0 --node-ip=10.203.0.1 --pod-infra-container-image=localhost/pause:1

# pass_on GROUP/VERSION: kube-apiserver asks the other server for it.
pass_on() {
	cat <<-END
		---
		apiVersion: apiregistration.k8s.io/v1
		kind: APIService
		metadata: { name: ${1#*/}.${1%/*}, labels: { kube-aggregator.kubernetes.io/automanaged: "false" } }
		spec:
		  group: ${1%/*}
		  version: ${1#*/}
		  groupPriorityMinimum: 1000
		  versionPriority: 100
		  caBundle: $(base64 -w 0 pki/ca.crt)
		  service: { name: custom, namespace: kube-system, port: 6443 }
	END
}

if [ -n "$groups" ]; then
	# shellcheck disable=SC2086 # these are words
	start apiextensions-apiserver $served $proxied --secure-port=6443 --bind-address=127.0.0.1 \
		--etcd-servers=http://127.0.0.1:2379 --etcd-prefix=/custom --kubeconfig=kubeconfig \
		--authentication-kubeconfig=kubeconfig --authorization-kubeconfig=kubeconfig \
		--enable-priority-and-fairness=false --disable-admission-plugins=ValidatingAdmissionPolicy \
		--disable-admission-plugins=MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionWebhook
	{
		cat <<-END
			apiVersion: v1
			kind: Service
			metadata: { name: custom, namespace: kube-system }
			spec: { type: ExternalName, externalName: localhost, ports: [{ port: 6443 }] }
		END
		for group in apiextensions.k8s.io/v1 $groups; do pass_on "$group"; done
	} | kubectl apply -f - >log/apply.log 2>&1 || { cat log/apply.log >&2 && exit 1; }
	kubectl delete apiservice v1beta1.apiextensions.k8s.io >/dev/null
	await apiextensions-apiserver sh -c 'kubectl wait --for=condition=Available --timeout=0 \
		apiservice/v1.apiextensions.k8s.io && kubectl get crd'
fi

start kubectl proxy --unix-socket=api.sock
await kubectl test -S api.sock
await kube-controller-manager kubectl get serviceaccount default
await kubelet kubectl wait --for=condition=Ready --timeout=0 node/node0
