#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# read and write.

load helper

@test "what write commits, read gives back" {
    keepmap create m.km --size 1M --quiet
    noise 1048576 >input
    run --separate-stderr keepmap write m.km <input
    same 0 "$status"
    same "wrote 1048576 bytes (1 MiB) to m.km: generation 1" "$output"
    keepmap read m.km | cmp - input
    expect 0 verify m.km
}

@test "write reports as JSON" {
    keepmap create m.km --size 1M --quiet
    run --separate-stderr keepmap write m.km --json --lazy <<<"hello"
    same '["generation","lazy","size","target","written"]' "$(jq -c keys <<<"$output")"
    same "m.km 1 1048576 6 true" "$(json '"\(.target) \(.generation) \(.size) \(.written) \(.lazy)"')"
    run --separate-stderr keepmap write m.km --quiet <<<"hallo"
    same "" "$output$stderr"
}

@test "each write is one commit, and an equal or empty one is none" {
    keepmap create m.km --size 64K --quiet
    local text
    for text in one two three; do
        printf %s "$text" | keepmap write m.km --quiet
    done
    same 3 "$(keepmap info m.km --json | jq .generation)"
    printf three | keepmap write m.km --quiet
    keepmap write m.km --quiet </dev/null
    same 3 "$(keepmap info m.km --json | jq .generation)"
}

@test "write --offset leaves the rest as it is" {
    make_map m.km
    printf XYZ | keepmap write m.km --offset 4K --quiet
    printf END | keepmap write m.km --offset 262141 --quiet
    same "generation 1" "$(keepmap read m.km --length 12)"
    same XYZ "$(keepmap read m.km --offset 4096 --length 3)"
    same END "$(keepmap read m.km --offset 262141)"
}

@test "write fills the map to its last byte" {
    keepmap create m.km --size 100001 --quiet
    noise 100001 >input
    keepmap write m.km --quiet <input
    keepmap read m.km | cmp - input
}

@test "input longer than the map changes nothing" {
    make_map m.km
    keepmap read m.km >before
    noise 262145 >input
    run --separate-stderr keepmap write m.km <input
    same 2 "$status"
    [[ $stderr == *"longer than the 262144 bytes"*"nothing was changed"* ]]
    run --separate-stderr keepmap write m.km --offset 262143 <<<"x"
    same 2 "$status"
    run --separate-stderr keepmap write m.km --offset 262145 </dev/null
    same 2 "$status"
    [[ $stderr == *"holds 262144 bytes"* ]]
    run --separate-stderr keepmap write m.km --offset 262144 </dev/null
    same 0 "$status"
    keepmap read m.km | cmp - before
    same 1 "$(keepmap info m.km --json | jq .generation)"
}

@test "a write that is killed before its input ends changes nothing" {
    make_map m.km
    mkfifo pipe
    "$KEEPMAP" write m.km <pipe 3>&- &
    PIDS+=("$!")
    exec 8>pipe
    noise 100000 >&8
    wait_until eval 'keepmap who m.km --json | jq -e ".users[0].in_transaction" >/dev/null'
    kill -KILL "${PIDS[0]}"
    exec 8>&-
    same "generation 1" "$(keepmap read m.km --length 12)"
    expect 0 checkpoint m.km
    same 1 "$(keepmap info m.km --json | jq .generation)"
    expect 0 verify m.km
}

@test "a directory as input changes nothing" {
    make_map m.km
    run --separate-stderr keepmap write m.km <"$DIR"
    same 7 "$status"
    [[ $stderr == *"cannot read standard input"*"nothing was changed"* ]]
    same 1 "$(keepmap info m.km --json | jq .generation)"
}

@test "write --lazy commits, and closing makes it durable" {
    make_map m.km
    printf lazy | keepmap write m.km --lazy --quiet
    same lazy "$(keepmap read m.km --length 4)"
    expect 0 info m.km --json
    same "2 2 true" "$(json '"\(.generation) \(.durable_generation) \(.clean)"')"
}

@test "write gives up waiting for another writer after --timeout" {
    make_map m.km
    hold m.km write
    refused 4 "keepmap who" write m.km --timeout 0.3
    [[ $stderr == *"--timeout"* ]]
    release "$HOLDER"
    expect 0 write m.km --timeout 0.3
}

@test "read reads ranges" {
    keepmap create m.km --size 100000 --quiet
    noise 100000 >input
    keepmap write m.km --quiet <input
    keepmap read m.km --offset 99999 | cmp - <(tail -c 1 input)
    keepmap read m.km --length 5000 | cmp - <(head -c 5000 input)
    keepmap read m.km --offset 4K --length 4097 | cmp - <(tail -c +4097 input | head -c 4097)
    same 0 "$(keepmap read m.km --offset 100000 | wc -c)"
    same 0 "$(keepmap read m.km --length 0 | wc -c)"
}

@test "a read past the end names the size and prints nothing" {
    make_map m.km
    refused 2 "holds 262144 bytes" read m.km --offset 262145
    refused 2 "holds 262144 bytes" read m.km --length 262145
    refused 2 "holds 262144 bytes" read m.km --offset 262144 --length 1
    refused 2 "holds 262144 bytes" read m.km --offset 18446744073709551615 --length 2
    refused 2 "holds 262144 bytes" read m.km --offset 2 --length 18446744073709551615
}

@test "read never changes the file" {
    make_map m.km
    local before
    before=$(checksum m.km)
    keepmap read m.km >/dev/null
    same "$before" "$(checksum m.km)"
}

@test "read gives one commit, whatever is committed meanwhile" {
    keepmap create m.km --size 2M --quiet
    head -c 2097152 /dev/zero | tr '\0' a | keepmap write m.km --quiet
    mkfifo pipe
    "$KEEPMAP" read m.km >pipe 3>&- &
    PIDS+=("$!")
    exec 8<pipe
    wait_until eval 'keepmap who m.km --json | jq -e .read_only_handles >/dev/null'
    head -c 1 <&8 >first
    head -c 2097152 /dev/zero | tr '\0' b | keepmap write m.km --quiet --timeout 2
    same 2097151 "$(cat <&8 | tr -d b | wc -c)"
    exec 8<&-
    wait "${PIDS[0]}"
    same "" "$(keepmap read m.km | tr -d b)"
}

@test "a file that is cut short while it is read is an error and no crash" {
    keepmap create m.km --size 4M --quiet
    noise 4194304 | keepmap write m.km --quiet
    mkfifo pipe
    "$KEEPMAP" read m.km >pipe 2>error.txt 3>&- &
    PIDS+=("$!")
    exec 8<pipe
    wait_until eval 'keepmap who m.km --json | jq -e .read_only_handles >/dev/null'
    head -c 1 <&8 >/dev/null
    truncate -s 200000 m.km
    cat <&8 >/dev/null
    exec 8<&-
    local result=0
    wait "${PIDS[0]}" || result=$?
    same 7 "$result"
    [[ $(cat error.txt) == "keepmap: read m.km: "*"cut short"* ]]
}
