#!/usr/bin/env bash
# Changes the address of a client over an emulated link of 30 ms each way, and prints how many ms it takes until the client is
# current again, with the hint of the application and without it, over WebSocket and QUIC.
#
#   NETLAB=path/to/netlab sdk-rust/roaming.sh [--times 6] [--rows REGEX]
#
# Needs root, netlab, openssl, and builds (`cargo build -p lanecast-server`, `-p lanecast --example roaming`), which BIN
# names if they are not in target/debug. Rows are named TRANSPORT/HOW/CHANGE:
#
#   hint, none      whether the application says that the network changed
#   replaced        the address is gone, and another one is there at once
#   away            the address is gone, and another one is there 1.5 s later, from which on is counted
#   other           another address is there and leads to the node; the one before stays
#
# It fails if a row is beyond what holds: 1 s with the hint, 3 s without it.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
netlab=${NETLAB:?say where netlab is}
bin=${BIN:-$repository/target/debug}
node=${LANECAST_BIN:-$bin/lanecast}
times=6
rows=.
while [ $# -gt 0 ]; do
    case $1 in
    --times) times=$2; shift ;;
    --rows) rows=$2; shift ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | head -n -1; exit 2 ;;
    esac
    shift
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 13 -subj /CN=roaming \
    -addext subjectAltName=IP:10.77.0.1,IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
hash=$(openssl x509 -in "$work/cert.pem" -outform der | sha256sum | cut -d' ' -f1)
cat >"$work/node.toml" <<END
[listen]
address = "0.0.0.0:8080"
quic = "0.0.0.0:8443"
[tls]
certificate_file = "$work/cert.pem"
key_file = "$work/key.pem"
http = false
[tokens]
hs256_secret = "roaming-bench-secret-0123456789abcdef"
[[policies]]
rooms = "**"
retention_events = 200_000
END
token=$("$node" token --user roamer --config "$work/node.toml" --rights 'subscribe,publish@**')
client="--room roaming --token $token --hash $hash"

script() {
    printf '#!/bin/sh\n%s\n' "$2" >"$work/$1.sh"
    chmod +x "$work/$1.sh"
}

# The node's side knows the way to both addresses of the client.
script node "dev=\$(ip -o route get 10.77.0.2 | sed 's/.* dev \\([^ ]*\\).*/\\1/')
ip route replace 10.77.0.3/32 dev \$dev
exec $node serve --config $work/node.toml >$work/node.log 2>&1"
script near "until ss -Hltn 'sport = :8080' | grep -q .; do sleep 0.1; done
exec $bin/examples/roaming ws://127.0.0.1:8080 $client --publish"

# change WAIT KEEP: a script that moves the client to 10.77.0.3 (0) or back (1).
change() {
    script change "dev=\$(ls /sys/class/net | grep -v '^lo\$')
case \$1 in 0) old=10.77.0.2 new=10.77.0.3 ;; *) old=10.77.0.3 new=10.77.0.2 ;; esac
[ -n '$2' ] || ip addr del \$old peer 10.77.0.1/32 dev \$dev
sleep $1
ip addr add \$new peer 10.77.0.1/32 dev \$dev 2>/dev/null || [ -n '$2' ]
ip route replace 10.77.0.1/32 dev \$dev src \$new"
}

failed=0
printf '| row | ms, each of %s changes | at most |\n| --- | --- | --- |\n' "$times"
for transport in websocket quic; do
    case $transport in quic) url=quic://10.77.0.1:8443 ;; *) url=ws://10.77.0.1:8080 ;; esac
    for how in hint none; do
        for kind in replaced away other; do
            row=$transport/$how/$kind
            grep -Eq "$rows" <<<"$row" || continue
            case $kind in replaced) change 0 '' ;; away) change 1.5 '' ;; other) change 0 keep ;; esac
            [ $how = hint ] && hint=--hint most=1000 || hint='' most=3000
            script far "exec $bin/examples/roaming $url $client --change $work/change.sh --times $times $hint >$work/out"
            "$netlab" --delay 30ms --rate 10mbit --queue 125kb --ready 8080 --timeout $((times * 10 + 60)) \
                --server "$work/node.sh" --also-server "$work/near.sh" --client "$work/far.sh" >"$work/log" 2>&1 ||
                { echo "$row failed:" >&2; tail -n 5 "$work/log" "$work/node.log" >&2; failed=1; }
            worst=$(sort -n "$work/out" | tail -n 1)
            echo "| $row | $(xargs <"$work/out") | $worst |"
            [ "${worst:-$most}" -lt "$most" ] || { echo "$row: more than $most ms" >&2; failed=1; }
        done
    done
done
exit $failed
