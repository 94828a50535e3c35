#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# sync, checkpoint and grow.

load helper

@test "sync makes lazy commits durable" {
    make_map m.km
    hold m.km lazy commit commit
    expect 0 sync m.km
    same "m.km is durable up to generation 3" "$output"
    expect 0 sync m.km --json
    same "m.km 3 3 262144" "$(json '"\(.target) \(.generation) \(.durable_generation) \(.size)"')"
    expect 0 sync m.km --quiet
    same "" "$output$stderr"
}

@test "checkpoint frees the journal" {
    make_map m.km
    hold m.km commit commit
    same true "$(keepmap info m.km --json | jq '.journal_used > 0 and .checkpoint_generation < 3')"
    expect 0 checkpoint m.km
    same "m.km is checkpointed up to generation 3" "$output"
    same "0 3" "$(keepmap info m.km --json | jq -r '"\(.journal_used) \(.checkpoint_generation)"')"
    expect 0 checkpoint m.km --json
    same "m.km 3 3 262144" "$(json '"\(.target) \(.generation) \(.checkpoint_generation) \(.size)"')"
    expect 0 checkpoint m.km --quiet
    same "" "$output$stderr"
}

@test "checkpoint says when a reader holds it back" {
    make_map m.km
    hold m.km read
    printf 'generation 2' | keepmap write m.km --quiet
    expect 0 checkpoint m.km --timeout 1
    [[ $output == "m.km is checkpointed up to generation 1 of 2: a reader holds back the rest"* ]]
    release "$HOLDER"
    expect 0 checkpoint m.km
    same "m.km is checkpointed up to generation 2" "$output"
}

@test "grow gives zeros at the end, as a commit" {
    make_map m.km --max-size 1M
    expect 0 grow m.km 512K
    same "m.km holds 524288 bytes (512 KiB) now: generation 2" "$output"
    same 524288 "$(keepmap read m.km | wc -c)"
    same "generation 1" "$(keepmap read m.km --length 12)"
    keepmap read m.km --offset 256K | cmp - <(head -c 262144 /dev/zero)
    printf end | keepmap write m.km --offset 524285 --quiet
    expect 0 verify m.km
    expect 0 grow m.km 600000 --json
    same "m.km 4 600000 1048576" "$(json '"\(.target) \(.generation) \(.size) \(.max_size)"')"
    expect 0 grow m.km 1M --quiet
    same "" "$output$stderr"
}

@test "grow beyond max-size works for one who is alone" {
    make_map m.km
    expect 0 grow m.km 1M --json
    same "1048576 1048576" "$(json '"\(.size) \(.max_size)"')"
    same "generation 1" "$(keepmap read m.km --length 12)"
    noise 1048576 >input
    keepmap write m.km --quiet <input
    keepmap read m.km | cmp - input
    expect 0 verify m.km
}

@test "grow up to max-size works while others have the map open, beyond it not" {
    make_map m.km --max-size 512K
    hold m.km read
    expect 0 grow m.km 512K
    refused 4 "524288" grow m.km 1M --timeout 0.3
    same 524288 "$(keepmap info m.km --json | jq .size)"
    release "$HOLDER"
    expect 0 grow m.km 1M
}

@test "a map never shrinks" {
    make_map m.km
    refused 2 "" grow m.km 128K
    refused 2 "" grow m.km 0
    refused 2 "" grow m.km 16777215T
    same 262144 "$(keepmap info m.km --json | jq .size)"
    expect 0 grow m.km 256K
    same 262144 "$(keepmap info m.km --json | jq .size)"
}

@test "each of them recovers a map whose users were killed" {
    local verb
    for verb in sync checkpoint; do
        make_map $verb.km
        crash $verb.km commit commit
        expect 0 $verb $verb.km
        same "clean 3" "$(keepmap info $verb.km --json | jq -r '"\(.state) \(.generation)"')"
        expect 0 verify $verb.km
    done
    make_map grow.km
    crash grow.km commit commit
    expect 0 grow grow.km 1M
    same "clean 4" "$(keepmap info grow.km --json | jq -r '"\(.state) \(.generation)"')"
    expect 0 verify grow.km
}
