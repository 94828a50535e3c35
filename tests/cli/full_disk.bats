#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# A full disk: the error says so, and the map stays usable and at its last commit.

load helper

# says_full: the last run failed for want of space.
says_full() {
    same 7 "$status" && [[ $stderr == "keepmap: "*"No space left on device"* && $stderr != *$'\n'* ]] || {
        printf '%s\n' "$stderr" >&2
        return 1
    }
}

# fill DIRECTORY: take all the space that is left.
fill() {
    head -c 1G /dev/zero >"$1/filler" 2>/dev/null || true
}

@test "at create nothing is left behind" {
    small_disk 512k
    attempt create disk/m.km --size 16M
    says_full
    [ -z "$(ls -A disk)" ]
    # As much as before is free again.
    expect 0 create disk/m.km --size 64K --journal 64K
}

@test "at create --live and --raw, which take all of their space, nothing is left behind" {
    small_disk_with_holes 8M
    local kind
    for kind in --live --raw; do
        attempt create disk/m.km --size 64M $kind
        says_full
        [ -z "$(ls -A disk | grep -v lost+found)" ]
    done
    # As their space is theirs, a full disk is no fault for stores.
    keepmap create disk/live.km --size 1M --live --quiet
    keepmap create disk/m.raw --size 1M --raw --quiet
    fill disk
    noise 1048576 >input
    keepmap write disk/live.km --quiet <input
    keepmap write disk/m.raw --raw --quiet <input
    keepmap read disk/live.km | cmp - input
    cmp disk/m.raw input
    expect 0 verify disk/live.km
}

@test "at create --from nothing is left behind" {
    small_disk_with_holes 8M
    noise 6000000 >input
    local kind
    for kind in "" --live --raw; do
        head -c 6M /dev/zero >disk/filler
        # shellcheck disable=SC2086
        attempt create disk/m.km --from input --quiet $kind
        says_full
        same filler "$(ls disk | grep -v lost+found)"
    done
}

@test "at commit the map stays at its last commit" {
    small_disk 4m
    keepmap create disk/m.km --size 1M --journal 64K --quiet
    printf 'generation 1' | keepmap write disk/m.km --quiet
    fill disk
    # More than the journal holds: it has to grow, and cannot.
    noise 1048576 >input
    run --separate-stderr keepmap write disk/m.km <input
    says_full
    expect 0 verify disk/m.km
    same 1 "$(keepmap info disk/m.km --json | jq .generation)"
    same "generation 1" "$(keepmap read disk/m.km --length 12)"
    rm disk/filler
    run --separate-stderr keepmap write disk/m.km <input
    same 0 "$status"
    keepmap read disk/m.km | cmp - input
}

@test "at checkpoint the commits stay in the journal" {
    small_disk_with_holes 8M
    keepmap create disk/m.km --size 2M --journal 1M --quiet
    printf 'generation 1' | keepmap write disk/m.km --quiet
    fill disk
    noise 500000 >input
    # It fits into the journal, which has its space, but not into the holes of the data.
    run --separate-stderr keepmap write disk/m.km --offset 1M <input
    says_full
    [[ $stderr == *"what was committed is durable"* && $stderr != *$'\n'* ]]
    same 2 "$(keepmap info disk/m.km --json | jq .generation)"
    keepmap read disk/m.km --offset 1M --length 500000 | cmp - input
    expect 0 verify disk/m.km
    attempt checkpoint disk/m.km
    same 7 "$status"
    rm disk/filler
    expect 0 checkpoint disk/m.km
    keepmap read disk/m.km --offset 1M --length 500000 | cmp - input
    expect 0 verify disk/m.km
    same clean "$(keepmap info disk/m.km --json | jq -r .state)"
}

@test "at grow the map keeps its size" {
    small_disk 4m
    keepmap create disk/m.km --size 1M --journal 1M --quiet
    printf 'generation 1' | keepmap write disk/m.km --quiet
    fill disk
    attempt grow disk/m.km 512M
    says_full
    same "1048576 1" "$(keepmap info disk/m.km --json | jq -r '"\(.size) \(.generation)"')"
    expect 0 verify disk/m.km
    rm disk/filler
    expect 0 grow disk/m.km 1100000
    same "generation 1" "$(keepmap read disk/m.km --length 12)"
    expect 0 verify disk/m.km
}

@test "a limit on file sizes is told as such" {
    run --separate-stderr bash -c 'ulimit -f 512; "$0" create m.km --size 16M' "$KEEPMAP"
    same 2 "$status"
    [[ $stderr == "keepmap: create m.km: "*"ulimit -f"* ]]
    [ ! -e m.km ]
}

@test "one process's limit on file sizes is nobody else's" {
    keepmap create m.km --size 1M --quiet
    hold m.km read
    printf 'before' | keepmap write m.km --quiet
    run --separate-stderr bash -c 'ulimit -f 100; printf limited | "$0" write m.km' "$KEEPMAP"
    same 2 "$status"
    [[ $stderr == "keepmap: write m.km: "*"ulimit -f"* && $stderr != *$'\n'* ]]
    printf 'behind' | keepmap write m.km --quiet
    same "behind in_use" "$(keepmap read m.km --length 6) $(keepmap info m.km --json | jq -r .state)"
    release "$HOLDER"
    expect 0 verify m.km
}
