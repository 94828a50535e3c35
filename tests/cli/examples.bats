#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The programs of docs/examples, used as their heads say: several at once, and killed.

load helper

# example NAME ARGUMENTS...: one of the programs, bounded in time.
example() {
    local name=$1
    shift
    timeout --kill-after=5 60 "$(dirname "$KEEPMAP")/examples/$name" "$@" 3>&-
}

# start NAME ARGUMENTS...: the same in the background, with the present standard input; what it prints is added to the
# files "output" and "words". $STARTED is its process.
start() {
    local name=$1
    shift
    "$(dirname "$KEEPMAP")/examples/$name" "$@" <&0 >>output 2>>words 3>&- 7>&- &
    STARTED=$!
    PIDS+=("$STARTED")
}

# kill_started PROCESS
kill_started() {
    kill -KILL "$1"
    wait "$1" 2>/dev/null || true
}

# refuses STATUS WORDS NAME ARGUMENTS...
refuses() {
    local wanted=$1 words=$2
    shift 2
    run --separate-stderr example "$@" </dev/null
    [ "$status" -eq "$wanted" ] && [ -z "$output" ] && [[ $stderr == *"$words"* ]] || {
        printf '%s: status %s, not %s\n%s\n%s\n' "$*" "$status" "$wanted" "$output" "$stderr" >&2
        return 1
    }
}

# lines FILE NUMBER: the file has at least so many lines.
lines() {
    [ -e "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]
}

# ---- counter and count -----------------------------------------------------------------------------------------------

@test "counter counts its runs, and a killed run counts once or not at all" {
    local i before now
    for i in 1 2 3; do
        same "run number $i" "$(example counter)"
    done
    for i in 1 2 3 4 5 6 7 8; do
        start counter
        sleep "0.00$i"
        kill -KILL "$STARTED" 2>/dev/null || true # it may be done
        wait "$STARTED" 2>/dev/null || true
        now=$(example counter)
        now=${now#run number }
        before=${before:-3}
        [ "$now" -eq $((before + 1)) ] || [ "$now" -eq $((before + 2)) ]
        before=$now
    done
    expect 0 verify counter.km
}

@test "count counts a text once, however often it is killed" {
    local i
    seq -f 'line %.0f of the text' 5000 >text
    for i in 1 2 3 4 5; do
        start count m.km text 1000 5
        sleep 0.1
        kill_started "$STARTED"
    done
    example count m.km text 1000 >killed
    example count calm.km text >calm
    cmp calm killed
    same "$(wc -lwc <text | awk '{ print "bytes " $3; print "lines " $1; print "words " $2 }')" "$(head -n 3 killed)"
    grep -q 'goes on at byte [1-9]' words
    refuses 2 usage count m.km
    refuses 1 'no-text' count m.km no-text
}

# ---- config ----------------------------------------------------------------------------------------------------------

@test "config keeps what is set, and tells what is not there" {
    example config site.km set colour 'dark green'
    example config site.km set port 80
    example config site.km set port 8080
    same 'dark green' "$(example config site.km get colour)"
    same 8080 "$(example config site.km get port)"
    refuses 1 '' config site.km get depth
    refuses 1 '' config site.km get ''
    expect 0 verify site.km
    same 3 "$(keepmap info site.km --json | jq .generation)"
}

@test "config watch shows each change as it is made, to every watcher" {
    example config site.km set colour red
    start config site.km watch 3
    local first=$STARTED
    wait_until grep -q 'colour = red' output
    start config site.km watch 3
    wait_until lines output 4
    example config site.km set colour green
    wait_until lines output 8
    example config site.km set size 7
    wait "$first"
    wait "$STARTED"
    same "$(printf 'configuration 1\n  colour = red\nconfiguration 2\n  colour = green
configuration 3\n  colour = green\n  size = 7\n' | sort | sed 'p')" "$(sort output)"
    [ ! -s words ]
}

@test "config watch sees only whole configurations while a writer is killed again and again" {
    local i
    example config site.km set n 0
    start config site.km watch
    local watcher=$STARTED writer
    wait_until lines output 2
    for i in 1 2 3 4 5; do
        while example config site.km set n "$RANDOM"; do :; done >/dev/null 2>&1 3>&- &
        writer=$!
        PIDS+=("$writer")
        sleep 0.1
        kill_started "$writer"
    done
    example config site.km set n last
    wait_until grep -q 'n = last' output
    kill_started "$watcher"
    # Generations that only rise, each with its one entry.
    grep '^configuration' output | cut -d' ' -f2 | sort -nuc
    same "$(grep -c '^configuration' output)" "$(grep -c '^  n = ' output)"
    expect 0 verify site.km
}

@test "config says so when its file is cut short under a watcher" {
    example config site.km set n 1
    start config site.km watch
    wait_until lines output 2
    truncate -s 1000 site.km
    local status=0
    wait "$STARTED" || status=$?
    same 1 "$status"
    grep -q 'config: site.km: ' words
}

@test "config refuses what it cannot use" {
    refuses 2 usage config
    refuses 2 usage config site.km
    refuses 2 usage config site.km set key
    refuses 2 usage config site.km get
    refuses 2 usage config site.km watch 0
    refuses 2 usage config site.km watch -1
    refuses 2 'a key has' config site.km set "$(printf '%032d' 1)" value
    refuses 2 'a key has' config site.km set '' value
    refuses 2 'a key has' config site.km set key "$(printf '%096d' 1)"
    refuses 1 'config: other.km' config other.km get key
    make_map other.km
    refuses 1 schema config other.km get key
    keepmap create small.km --size 100 --schema example-config:1 --quiet
    refuses 1 'too small' config small.km get key
    local i full=$KEEPMAP_SHM/full.km # where nothing waits for a disk
    for ((i = 0; i < 64; i++)); do
        example config "$full" set "key $i" "$i"
    done
    refuses 1 'are taken' config "$full" set one more
    example config "$full" set 'key 63' changed
    same changed "$(example config "$full" get 'key 63')"
}

# ---- metrics ---------------------------------------------------------------------------------------------------------

# count_together TARGET: four processes that count two names, 50000 times each.
count_together() {
    local pid pids=()
    for name in requests errors requests errors; do
        start metrics "$1" count $name 50000
        pids+=("$STARTED")
    done
    for pid in "${pids[@]}"; do
        wait "$pid"
    done
}

@test "metrics loses no count of several processes at once" {
    count_together m.km
    same "$(printf 'errors 100000\nrequests 100000')" "$(example metrics m.km show | sort)"
    example metrics m.km count requests
    same 'requests 100001' "$(example metrics m.km show | grep requests)"
    expect 0 verify m.km
    same "live clean 0" "$(keepmap info m.km --json | jq -r '"\(.mode) \(.state) \(.handles)"')"
}

@test "metrics counts in memory as long as somebody holds the map" {
    mkfifo input
    exec 7<>input
    start metrics 'Local\metrics' hold <input
    local holder=$STARTED
    wait_until grep -q open output
    count_together 'Local\metrics'
    same "$(printf 'errors 100000\nrequests 100000')" "$(example metrics 'Local\metrics' show | sort)"
    exec 7>&-
    wait "$holder"
    refuses 1 'Local\metrics' metrics 'Local\metrics' show
}

@test "metrics keeps what a killed process counted, and the counts of the others" {
    local i killed
    example metrics m.km count victim 0
    for i in 1 2 3 4 5; do
        start metrics m.km count victim 1000000000000
        killed=$STARTED
        start metrics m.km count "other$i" 100000
        sleep 0.05
        kill_started "$killed"
        wait "$STARTED"
        example metrics m.km show >"shown$i"
        grep -q "^other$i 100000$" "shown$i"
        [ "$(grep -c ' 100000$' "shown$i")" = "$i" ]
    done
    local before=0 now
    for i in 1 2 3 4 5; do
        now=$(sed -n 's/^victim //p' "shown$i")
        [ "$now" -ge "$before" ]
        before=$now
    done
    [ "$now" -gt 0 ]
    expect 0 verify m.km
}

@test "metrics goes on after a writer that died inside its transaction" {
    example metrics m.km count requests 3
    crash m.km write
    run --separate-stderr example metrics m.km count errors
    same 0 "$status"
    same 'metrics: the last writer died; 1 of 1 counters are good' "$stderr"
    run --separate-stderr example metrics m.km count another
    same '0 ' "$status $stderr"
    same "$(printf 'another 1\nerrors 1\nrequests 3')" "$(example metrics m.km show | sort)"
    same false "$(keepmap info m.km --json | jq .abandoned)"
}

@test "metrics refuses what it cannot use" {
    refuses 2 usage metrics
    refuses 2 usage metrics m.km
    refuses 2 usage metrics m.km count
    refuses 2 usage metrics m.km count 'two words'
    refuses 2 usage metrics m.km count "$(printf '%056d' 1)"
    refuses 2 usage metrics m.km count requests many
    refuses 2 usage metrics m.km count requests -1
    refuses 2 usage metrics m.km show all
    [ ! -e m.km ]
    refuses 1 'metrics: m.km' metrics m.km show
    keepmap create other.km --size 1M --schema example-metrics:1 --quiet
    refuses 1 'not a map of metrics' metrics other.km show
    local i full=$KEEPMAP_SHM/full.metrics # where nothing waits for a disk
    for ((i = 0; i < 255; i++)); do
        example metrics "$full" count "name$i"
    done
    refuses 1 'are taken' metrics "$full" count one-more
    example metrics "$full" count name254
    same 'name254 2' "$(example metrics "$full" show | tail -n 1)"
}

# ---- ring ------------------------------------------------------------------------------------------------------------

# sent FILE NUMBER: so many messages were sent.
sent() {
    [ -e "$1" ] && [ "$(od -An -tu8 -j"$(header "$1" a data_offset)" -N8 "$1")" -eq "$2" ]
}

@test "ring brings every line, in order, from one process to another" {
    local target
    seq 20000 >wanted
    printf 'an empty line:\n\nand a long one: %0999d\n' 7 >>wanted
    for target in m.km 'Local\ring'; do
        rm -f output
        start ring "$target" receive 20003
        example ring "$target" send <wanted
        wait "$STARTED"
        cmp wanted output
    done
    [ ! -s words ]
}

@test "ring keeps in a file what nobody has received yet" {
    seq 200 | example ring m.km send
    expect 0 verify m.km
    same "$(seq 200)" "$(example ring m.km receive 200)"
}

@test "ring in memory keeps its sender until all is received" {
    start ring 'Local\ring' send < <(seq 10)
    local sender=$STARTED
    # Until it has attached there would be two maps of one name, one after the other.
    wait_until eval '[ -n "$(keepmap list)" ]'
    same "$(seq 10)" "$(example ring 'Local\ring' receive 10)"
    wait "$sender"
}

@test "ring makes its sender wait when it is full, and the receiver when it is empty" {
    seq 1000 >wanted
    start ring m.km send <wanted
    local sender=$STARTED
    wait_until sent m.km 256
    sleep 0.2
    sent m.km 256
    kill -0 "$sender"
    example ring m.km receive 1000 >received
    wait "$sender"
    cmp wanted received
    start ring m.km receive 1
    sleep 0.2
    kill -0 "$STARTED"
    echo late | example ring m.km send
    wait "$STARTED"
    same late "$(tail -n 1 output)"
}

@test "ring has one sender and one receiver at a time" {
    mkfifo input
    exec 7<>input
    start ring m.km send <input
    echo first >&7
    start ring m.km receive
    wait_until grep -q first output
    refuses 1 'another sender' ring m.km send
    refuses 1 'another receiver' ring m.km receive
    exec 7>&-
}

@test "ring loses nothing that was sent when either side is killed again and again" {
    local i sender receiver
    for i in 1 2 3 4 5; do
        start ring m.km receive
        receiver=$STARTED
        start ring m.km send < <(seq -f "$i %.0f" 1000000)
        sender=$STARTED
        sleep 0.1
        if ((i % 2)); then kill_started "$receiver"; else kill_started "$sender"; fi
        sleep 0.05
        if ((i % 2)); then kill_started "$sender"; else kill_started "$receiver"; fi
    done
    # What the dead left, and an end to know it by.
    start ring m.km receive
    echo end | example ring m.km send
    wait_until grep -qx end output
    kill_started "$STARTED"
    # From each sender the lines from 1 on without a gap, in order; at most five came twice.
    uniq output | awk '$1 == "end" { next } $1 != sender { sender = $1; n = 0 } $2 != n + 1 { print "gap at", $0; exit 1 } { n = $2 }'
    [ "$(uniq -d output | wc -l)" -le 6 ]
    [ "$(wc -l <output)" -gt 100 ]
    [ ! -s words ]
}

@test "ring begins anew when its numbers do not fit, as a power cut can leave them" {
    seq 10 | example ring m.km send
    example ring m.km receive 4 >/dev/null
    # Message 7 was not written by the time the power failed.
    printf '\0' | dd of=m.km bs=1 seek=$(($(header m.km a data_offset) + 4096 + 6 * 256)) conv=notrunc status=none
    run --separate-stderr example ring m.km receive 5
    same "$(printf '5\n6\n8\n9\n10')" "$output"
    same 'ring: message 7 was lost with the power' "$stderr"
    # The sender's number was not written.
    printf '\1' | dd of=m.km bs=1 seek="$(header m.km a data_offset)" conv=notrunc status=none
    echo again | example ring m.km send 2>words
    same 'ring: 1 messages were sent, 10 received: begins anew' "$(cat words)"
    same again "$(example ring m.km receive 1)"
}

@test "ring refuses what it cannot use" {
    refuses 2 usage ring
    refuses 2 usage ring m.km
    refuses 2 usage ring m.km send 7
    refuses 2 usage ring m.km receive 0
    refuses 2 usage ring m.km receive some
    refuses 1 'ring: ' ring "$DIR" receive
    make_map other.km
    refuses 1 schema ring other.km receive 1
    keepmap create small.km --size 100 --live --schema example-ring:1 --quiet
    refuses 1 'not a ring' ring small.km receive 1
}
