#!/usr/bin/env bash
# Runs `lanecast-conform load lanes` over emulated links and prints its table in Markdown, the median of all seeds.
#
#   NETLAB=path/to/netlab conformance/lanes.sh [--rows REGEX] [--seeds "1 2 3 4 5"] [--seconds 20] [--out DIR] [--list]
#
# Needs root, netlab, openssl, jq, for the rows of two nodes redis-server, for those behind a proxy nginx, and release
# builds (`cargo build --release -p lanecast-server -p lanecast-conform`, and `-p lanecast --example lane_sender` for
# uploads), which BIN names if they are not in target/release. Rows are named
#
#   DIRECTION/TRANSPORT/LOSS%/LOAD/QUEUE       download/quic/1%/bulk/lanes, upload/websocket/0%/quiet/fifo
#
# and `--rows` chooses among them. Those of the direction `overload` are downloads of another mix:
#
#   urgent      urgent events of twice the link beside as many normal and bulk ones
#   pps         a link of 30 packets per second for 150 s, 100 MB of bulk, 10 urgent events per second
#   signals     signals of ten times the link over 100 keys, that live 1 s
#   expiry      10,000 events and signals that live 40 ms beside bulk: none comes later than that and a round trip
#   replay      100,000 events of another room on the connection, to be compared with download/…/quiet/lanes
#   focus       a room that fills the link in lane normal, and one like the measured one; unfocus lowers the focus
#               of that one
#
# Rows that end in fifo need a node with the option `lanes.one_queue`, and unfocus one with the capability FOCUS. EXTRA is added
# to the options of the subscriber (EXTRA='--without credit'), CONFIG is a file that is added to the configuration of every
# node, TLS=1 puts WebSocket under TLS. One run at a time: two would measure each other.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
netlab=${NETLAB:?say where netlab is}
bin=${BIN:-$repository/target/release}
rows='^download/.*/lanes$'
seeds='1 2 3 4 5'
seconds=20
out=''
list=''
while [ $# -gt 0 ]; do
    case $1 in
    --rows) rows=$2; shift ;;
    --seeds) seeds=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --out) out=$2; shift ;;
    --list) list=1 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | head -n -1; exit 2 ;;
    esac
    shift
done

[ -n "${TLS:-}" ] && http=true schemes='https wss' || http=false schemes='http ws'
link='--rate 10mbit --delay 30ms --queue 125kb'
secret='lane-bench-secret-0123456789abcdef01234567'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${out:-$work/out}
mkdir -p "$out"

all_rows() {
    for direction in download upload; do
        for transport in websocket webtransport quic; do
            # The SDK for Rust has no WebTransport.
            [ "$direction/$transport" = upload/webtransport ] && continue
            for loss in 0 1 2; do
                for bulk in quiet bulk; do
                    for queue in lanes fifo; do echo "$direction/$transport/$loss%/$bulk/$queue"; done
                done
            done
        done
    done
    for transport in websocket webtransport quic; do
        for load in urgent pps signals expiry replay focus unfocus; do echo "overload/$transport/0%/$load/lanes"; done
    done
    for queue in lanes fifo; do echo "two-nodes/websocket/0%/import/$queue"; done
    for loss in 0 1; do
        for queue in lanes fifo; do echo "proxy/websocket/$loss%/bulk/$queue"; done
    done
}

# config QUEUE > FILE
config() {
    cat <<END
[listen]
address = "0.0.0.0:8080"
quic = "0.0.0.0:8443"
[tls]
certificate_file = "$work/cert.pem"
key_file = "$work/key.pem"
http = $http
[tokens]
hs256_secret = "$secret"
[limits]
signals_per_second = 1000
signals_burst = 1000
[[policies]]
rooms = "**"
retention_events = 200_000
user_signals_per_second = 100_000
user_signals_burst = 100_000
END
    [ "$1" = lanes ] || printf '[lanes]\none_queue = true\n'
    [ -z "${CONFIG:-}" ] || cat "$CONFIG"
}

certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 13 -subj /CN=lanes \
        -addext subjectAltName=IP:10.77.0.1,IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
    hash=$(openssl x509 -in "$work/cert.pem" -outform der | sha256sum | cut -d' ' -f1)
}

# A script for netlab, which takes one command of each side.
script() {
    printf '#!/bin/sh\n%s\n' "$2" >"$work/$1.sh"
    chmod +x "$work/$1.sh"
}

# near COMMAND [PORT]: what runs beside the node once that listens.
near() {
    script near "until ss -Hltn 'sport = :${2:-8080}' | grep -q .; do sleep 0.1; done; exec $1"
}

# measure ROW SEED: the report as JSON in $out.
measure() {
    local row=$1 seed=$2 direction transport loss bulk queue file
    IFS=/ read -r direction transport loss bulk queue <<<"$row"
    file="$out/$(tr '/%' '--' <<<"$row").$seed.json"
    [ -s "$file" ] && return
    local also=() client limits=$link seconds=$seconds mix=''
    if [ "$direction" = overload ]; then
        direction=download
        case $bulk in
        urgent) mix='--urgent-rate 2500 --urgent-bytes 1000 --normal-rate 2500 --normal-bytes 1000 --grace 0' ;;
        pps)
            limits='--pps 30 --delay 30ms --queue 125kb' seconds=150
            mix='--urgent-rate 10 --normal-rate 0 --signal-rate 0 --bulk-kbit 6000'
            ;;
        signals)
            limits='--rate 1mbit --delay 30ms --queue 125kb'
            mix='--no-bulk --signal-rate 8000 --signal-connections 10 --signal-keys 100 --ttl-ms 1000'
            ;;
        expiry) mix='--ttl-ms 40' seconds=80 ;;
        replay) mix='--no-bulk --replay 100000' ;;
        focus) mix='--no-bulk --focus default' ;;
        unfocus) mix='--no-bulk --focus background' ;;
        esac
    fi
    [ "$bulk" = quiet ] && mix=--no-bulk
    local scheme=${schemes% *} node="$bin/lanecast serve --config $work/node.toml" port=8080
    local common="--transport $transport --jwt-secret $secret --insecure --seconds $seconds --room conform.lanes $mix"
    local subscriber="load lanes --role subscriber $common --json ${EXTRA:-}" publisher="load lanes --role publisher $common"
    local near="$scheme://127.0.0.1:8080" far="$scheme://10.77.0.1:8080"
    config "$queue" >"$work/node.toml"
    case $direction in
    download)
        near "$bin/lanecast-conform $publisher --url $near >&2"
        client="$bin/lanecast-conform $subscriber --url $far --pid \$(cat $work/node.pid) >$file"
        ;;
    upload)
        local token sender
        token=$("$bin/lanecast" token --user sender --config "$work/node.toml" --rights 'subscribe,publish,signal,history@**')
        case $transport in quic) sender=quic://10.77.0.1:8443 ;; *) sender=${schemes#* }://10.77.0.1:8080 ;; esac
        near "$bin/lanecast-conform $subscriber --url $near >$file"
        client="$bin/examples/lane_sender $sender --room conform.lanes --token $token --hash $hash"
        [ "$bulk" = quiet ] && client="$client --no-bulk"
        [ "$queue" = fifo ] && client="$client --one-queue"
        # The near side has the report a moment after the sender is told to stop.
        client="$client && while [ ! -s $file ]; do sleep 0.1; done"
        ;;
    two-nodes)
        sed 's/0.0.0.0:8080/0.0.0.0:8081/; s/0.0.0.0:8443/0.0.0.0:8444/' "$work/node.toml" >"$work/other.toml"
        node="$node --redis redis://127.0.0.1:6390"
        script redis "exec redis-server --port 6390 --save '' --appendonly no"
        script other "exec ${node/node.toml/other.toml} >$work/other.log 2>&1"
        also+=(--also-server "$work/redis.sh >/dev/null" --also-server "$work/other.sh")
        near "$bin/lanecast-conform $publisher --bulk-kbit 0 --import --url $scheme://127.0.0.1:8081 >&2" 8081
        client="$bin/lanecast-conform $subscriber --import --url $far >$file"
        ;;
    proxy)
        cat >"$work/nginx.conf" <<END
daemon off; pid $work/nginx.pid; error_log $work/nginx.log;
events {}
http { access_log off; server { listen 8090; location / { proxy_pass http://127.0.0.1:8080; proxy_http_version 1.1;
  proxy_set_header Upgrade \$http_upgrade; proxy_set_header Connection \$http_connection; proxy_read_timeout 300; } } }
END
        script nginx "exec nginx -c $work/nginx.conf"
        also+=(--also-server "$work/nginx.sh")
        near "$bin/lanecast-conform $publisher --url $near >&2"
        client="$bin/lanecast-conform $subscriber --url http://10.77.0.1:8090 >$file"
        port=8090
        ;;
    esac
    script node "echo \$\$ >$work/node.pid; exec $node >$work/node.log 2>&1"
    script far "$client"
    # What one run leaves behind is gone with its namespaces' processes.
    "$netlab" $limits --loss "$loss" --seed "$seed" --ready "$port" --timeout $((seconds + 90)) \
        "${also[@]}" --also-server "$work/near.sh" --server "$work/node.sh" --client "$work/far.sh" >"$work/netlab.log" 2>&1 ||
        { echo "$row seed $seed failed:" >&2; tail -n 5 "$work/netlab.log" "$work/node.log" >&2; rm -f "$file"; }
}

# line ROW: the median of what was measured, as a row of the table.
line() {
    local files=("$out/$(tr '/%' '--' <<<"$1")".*.json)
    [ -s "${files[0]}" ] || { echo "| $1 | failed |"; return; }
    jq -rs --arg row "$1" '
        def median: sort | if length == 0 then "" else .[(length - 1) / 2 | floor] * 10 | round / 10 end;
        def of(name; field): [.[] | .lanes[] | select(.lane == name) | .[field]] | median;
        def kbit(name): of(name; "kbit_per_s") | if . == "" then . else round end;
        [$row, of("urgent"; "p50_ms"), of("urgent"; "p95_ms"), of("urgent"; "p99_ms"), of("urgent"; "max_ms"),
         of("urgent"; "delivered_percent"), of("signal"; "p99_ms"), of("signal"; "delivered_percent"),
         of("normal"; "p99_ms"), of("normal"; "delivered_percent"), kbit("bulk"), ([.[] | .ping.p99_ms] | median),
         ([.[] | select(.closed)] | length),
         if ($row | startswith("overload")) then
             ([kbit("urgent"), kbit("signal"), kbit("normal"), kbit("bulk")] | map(tostring) | join("/")),
             of("background"; "p99_ms"), of("heavy"; "p99_ms"), ([.[] | .signal_age.max_ms // empty] | median),
             ([.[] | .lanes[] | select(.lane != "bulk") | .expired] | add), ([.[] | .replayed // empty] | median), ([.[] | .memory_kib // empty | .[1] - .[0]] | median)
         else empty end]
        | "| " + (map(tostring) | join(" | ")) + " |"' "${files[@]}"
}

# head COLUMNS...: the head of a table.
head_of() {
    printf '| %s ' "$@"; echo '|'
    printf '| --- %.0s' "$@"; echo '|'
}

chosen=$(all_rows | grep -E "$rows") || { echo "no row is named like $rows" >&2; exit 2; }
[ -n "$list" ] && { echo "$chosen"; exit; }
certificate
for row in $chosen; do
    for seed in $seeds; do
        echo "$row seed $seed" >&2
        measure "$row" "$seed"
    done
done
columns=(row 'urgent p50 ms' p95 p99 max 'delivered %' 'signal p99' 'delivered %' 'normal p99' 'delivered %' 'bulk kbit/s'
    'ping p99' closed)
for table in '^[^o]' '^overload'; do
    rows=$(grep -E "$table" <<<"$chosen") || continue
    [ "$table" = ^overload ] && columns+=('kbit/s urgent/signal/normal/bulk' 'background p99' 'heavy p99' 'age of signals max'
        late replayed 'memory KiB')
    head_of "${columns[@]}"
    for row in $rows; do line "$row"; done
    echo
done
