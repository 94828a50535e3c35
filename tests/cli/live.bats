#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Live maps.

load helper

make_live() {
    make_map "$1" --live "${@:2}"
}

state() {
    keepmap info "$1" --json | jq -r .state
}

@test "create --live makes a live map, all of its space taken, without a journal" {
    expect 0 create m.km --live --size 1M --max-size 2M
    same "created m.km: 1048576 bytes (1 MiB) of live data that can grow to 2 MiB, checksum crc32c" "$output"
    expect 0 info m.km
    [[ $output == *"version 1, live"* && $output == *"state         clean: sealed"* && $output != *journal* ]]
    [ "$(($(stat -c %b m.km) * 512))" -ge 1048576 ]
    expect 0 create j.km --live --size 64K --json
    same '["checksum","generation","max_size","mode","size","target"]' "$(jq -c keys <<<"$output")"
    same live "$(json .mode)"
}

@test "options about commits make no sense with --live" {
    local option
    for option in --journal=1M --compress --full-pages; do
        refused 2 "it has no journal" create m.km --live --size 64K $option
    done
    [ ! -e m.km ]
}

@test "write stores, commits and seals" {
    keepmap create m.km --live --size 100000 --quiet
    noise 100000 >input
    run --separate-stderr keepmap write m.km <input
    same "wrote 100000 bytes (97.7 KiB) to m.km: generation 1" "$output"
    keepmap read m.km | cmp - input
    expect 0 info m.km --json
    same "live 1 1 clean" "$(json '"\(.mode) \(.generation) \(.durable_generation) \(.state)"')"
    expect 0 verify m.km
    same "m.km is sound: generation 1, 25 pages, both header slots" "$output"
    printf XYZ | keepmap write m.km --offset 4K --quiet
    same XYZ "$(keepmap read m.km --offset 4K --length 3)"
    keepmap read m.km | cmp -n 4096 - input
}

@test "write seals while others have it open, unless it is lazy" {
    make_live m.km
    hold m.km idle
    printf lazy | keepmap write m.km --lazy --quiet
    same lazy "$(keepmap read m.km --length 4)"
    expect 0 info m.km --json
    same "2 1 in_use" "$(json '"\(.generation) \(.durable_generation) \(.state)"')"
    printf firm | keepmap write m.km --quiet
    expect 0 info m.km --json
    same "3 3 in_use" "$(json '"\(.generation) \(.durable_generation) \(.state)"')"
    release "$HOLDER"
    same clean "$(state m.km)"
}

@test "what somebody stores is seen at once, without a commit" {
    make_live m.km
    hold m.km store
    same 1 "$(keepmap read m.km --offset 20480 --length 1 | od -An -tu1 | tr -d ' ')"
    same 1 "$(keepmap info m.km --json | jq .generation)"
}

@test "input longer than the map changes nothing, and waits for nobody before it has ended" {
    make_live m.km
    keepmap read m.km >before
    noise 262145 >input
    run --separate-stderr keepmap write m.km <input
    same 2 "$status"
    [[ $stderr == *"longer than the 262144 bytes"*"nothing was changed"* ]]
    run --separate-stderr keepmap write m.km --offset 262145 </dev/null
    same 2 "$status"
    keepmap read m.km | cmp - before
    same 1 "$(keepmap info m.km --json | jq .generation)"
    # A writer whose input is still coming holds no lock.
    mkfifo pipe
    "$KEEPMAP" write m.km --quiet <pipe 3>&- &
    PIDS+=("$!")
    exec 8>pipe
    noise 100000 >&8
    wait_until eval '[ "$(keepmap info m.km --json | jq .handles)" = 1 ]'
    printf other | keepmap write m.km --quiet --timeout 0.5
    kill -KILL "${PIDS[0]}"
    exec 8>&-
    same other "$(keepmap read m.km --length 5)"
    keepmap read m.km --offset 4K | cmp - <(tail -c +4097 before)
}

@test "a writer who holds the lock is waited for, readers wait for nobody" {
    make_live m.km
    hold m.km write store
    refused 4 "keepmap who" write m.km --timeout 0.3
    expect 0 read m.km --timeout 0.3
    release "$HOLDER"
    expect 0 write m.km --timeout 0.3
}

@test "the state is in use, then unclean when its users were killed, and clean once it is sealed" {
    make_live m.km
    same clean "$(state m.km)"
    hold m.km idle
    same in_use "$(state m.km)"
    expect 0 info m.km
    [[ $output == *"1: process $HOLDER (tool_hold)"* ]]
    kill -KILL "$HOLDER"
    wait "$HOLDER" || true
    same unclean "$(state m.km)"
    expect 0 info m.km
    [[ $output == *"not sealed"* && $output != *"last writer"* ]]
    expect 0 sync m.km
    same "m.km is durable and sealed up to generation 1" "$output"
    same clean "$(state m.km)"
}

@test "a page that was changed since the seal is named, and is no damage" {
    make_live m.km
    crash m.km store
    expect 0 verify m.km
    same "page 5 was changed since the last seal, or during it: bytes 20480 to 24575 of the data
m.km is sound: generation 1, 64 pages, both header slots
1 page was changed since the last seal, or during it, which is no damage: 'keepmap sync' seals" "$output"
    expect 0 verify m.km --quiet
    same "" "$output"
    expect 0 verify m.km --json
    same "changed KM_ECHANGED 5 20480 24575" \
        "$(json '.findings[0] | "\(.kind) \(.error) \(.page) \(.first_byte) \(.last_byte)"')"
    same "true 1 0" "$(json '"\(.sound) \(.pages_changed) \(.pages_damaged)"')"
    expect 0 sync m.km
    expect 0 verify m.km
    same "m.km is sound: generation 1, 64 pages, both header slots" "$output"
}

@test "a page of a sealed map that does not match is damage" {
    make_live m.km
    local data
    data=$(od -An -tu8 -j176 -N8 m.km | tr -d ' ')
    flip m.km $((data + 3 * 4096))
    expect 1 verify m.km
    [[ $output == "page 3 is damaged"*"m.km is DAMAGED: 1 of 64 pages, 0 of 2 header slots"* ]]
    [[ $output != *journal* ]]
}

@test "a write after a writer who died tells so, and makes the data good again" {
    make_live m.km
    crash m.km write store
    expect 0 info m.km --json
    same "true unclean" "$(json '"\(.abandoned) \(.state)"')"
    expect 0 info m.km
    [[ $output == *"last writer   died inside its transaction"* ]]
    # A seal does not say that the data is good.
    expect 0 sync m.km
    expect 0 info m.km
    [[ $output == *"state         not clean: no commit has said yet that the data is good"* ]]
    same "true unclean" "$(keepmap info m.km --json | jq -r '"\(.abandoned) \(.state)"')"
    run --separate-stderr keepmap write m.km <<<repaired
    same 0 "$status"
    [[ $stderr == "keepmap: write m.km: the last writer died inside its transaction"*"counts as good again" ]]
    same repaired "$(keepmap read m.km --length 8)"
    same false "$(keepmap info m.km --json | jq .abandoned)"
    run --separate-stderr keepmap write m.km --quiet <<<again
    same "0" "$status$stderr"
    # The first writer's store is still there: nothing is taken back.
    same 1 "$(keepmap read m.km --offset 20480 --length 1 | od -An -tu1 | tr -d ' ')"
}

@test "who, sync, checkpoint and grow work on live maps" {
    make_live m.km --max-size 1M
    hold m.km commit
    expect 0 who m.km --json
    same "$HOLDER" "$(json '.users[0].process_id')"
    expect 0 sync m.km --json
    same "2 2" "$(json '"\(.generation) \(.durable_generation)"')"
    expect 0 checkpoint m.km --json
    same "2 2" "$(json '"\(.generation) \(.checkpoint_generation)"')"
    expect 0 grow m.km 512K
    [[ $output == "m.km holds 524288 bytes (512 KiB) now: generation "* ]]
    refused 4 "" grow m.km 2M
    release "$HOLDER"
    expect 0 grow m.km 2M
    same "neration 1" "$(keepmap read m.km --offset 2 --length 10)"
    same 2097152 "$(keepmap info m.km --json | jq .size)"
    expect 0 verify m.km
}

@test "a live map has no journal to be listed" {
    make_live m.km
    refused 7 "has no journal" log m.km
}

@test "create --from --live begins with the bytes of a file, sealed" {
    noise 50000 >input
    expect 0 create m.km --live --from input --size 64K
    keepmap read m.km --length 50000 | cmp - input
    same "" "$(keepmap read m.km --offset 50000 | tr -d '\0')"
    expect 0 verify m.km
    same clean "$(state m.km)"
}
