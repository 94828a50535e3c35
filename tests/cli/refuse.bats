#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Bad input: each a distinct error with its exit status; never a crash, never a change to the file.

load helper

# refuses STATUS WORDS FILE: every verb refuses the file with that status and leaves it as it is.
refuses() {
    local before verb
    [ -f "$3" ] && before=$(checksum "$3")
    for verb in info read write verify log who sync checkpoint; do
        refused "$1" "$2" "$verb" "$3" || return 1
        [[ $stderr == "keepmap: $verb $3: "* ]] || {
            echo "not in the usual form: $stderr" >&2
            return 1
        }
    done
    refused "$1" "$2" grow "$3" 1M || return 1
    [ ! -f "$3" ] || same "$before" "$(checksum "$3")"
}

@test "a file that does not exist" {
    refuses 3 "keepmap create" missing.km
    refuses 3 "" missing/missing.km
    [ -z "$(ls -A "$DIR")" ]
}

@test "a file that is not a map" {
    noise 200000 >random
    refuses 5 "" random
    printf 'a short text\n' >text
    refuses 5 "" text
    head -c 200000 /dev/zero >zeros
    refuses 5 "" zeros
}

@test "an empty file" {
    : >empty
    refuses 5 "empty" empty
}

@test "a map that was cut short, at any length" {
    make_map m.km
    local length full
    full=$(stat -c %s m.km)
    for length in 1 7 8 100 4095 4096 8191 8192 8193 65535 65536 131072 $((full / 2)) $((full - 4096)) $((full - 1)); do
        head -c "$length" m.km >short
        refuses 5 "" short
    done
}

@test "a directory, a pipe, a device" {
    mkdir directory
    refuses 2 "directory" directory
    mkfifo pipe
    refuses 5 "regular file" pipe
    refuses 5 "regular file" /dev/null
}

@test "a file without permission" {
    need_root
    make_map m.km
    cp "$KEEPMAP" tool
    chmod 755 tool
    local before verb
    before=$(checksum m.km)
    for verb in info read write verify log who sync checkpoint; do
        run --separate-stderr as_nobody ./tool "$verb" m.km </dev/null
        same 7 "$status"
        [[ $stderr == "keepmap: $verb m.km: "*"ermission"* ]]
    done
    run --separate-stderr as_nobody ./tool create new.km --size 64K
    same 7 "$status"
    same "$before" "$(checksum m.km)"
}

@test "both header slots damaged" {
    make_map m.km
    flip m.km 300
    flip m.km $((4096 + 300))
    refuses 5 "" m.km
}

@test "a newer format" {
    make_map m.km
    header m.km both format_version 2
    refuses 6 "version" m.km
    # The one slot that an older library left does not make it an older map.
    make_map n.km
    expect 0 info n.km
}

@test "an unknown incompatible feature" {
    make_map m.km
    header m.km both feature_incompatible 0x20
    refuses 6 "feature" m.km
}

@test "an unknown read-only compatible feature: it can be read, but not written" {
    make_map m.km
    header m.km both feature_readonly 0x20
    local before verb
    before=$(checksum m.km)
    for verb in info read verify log who; do
        expect 0 "$verb" m.km
    done
    same "generation 1" "$(keepmap read m.km --length 12)"
    for verb in write sync checkpoint; do
        refused 6 "feature" "$verb" m.km
    done
    same "$before" "$(checksum m.km)"
}

@test "an unknown compatible feature is ignored" {
    make_map m.km
    header m.km both feature_compatible 0x20
    printf 'generation 2' | keepmap write m.km --quiet
    same "generation 2" "$(keepmap read m.km --length 12)"
    expect 0 info m.km --json
    same 0000000000000020 "$(json .feature_compatible)"
    expect 0 verify m.km
}

@test "an unknown mode or kind of checksum" {
    make_map m.km
    header m.km both mode 77
    refuses 6 "" m.km
    make_map n.km
    header n.km both checksum_kind 77
    refuses 6 "" n.km
}

@test "sizes and offsets in the header that do not fit" {
    local change
    for change in "data_size 0" "data_size 0xffffffffffffffff" "data_capacity 0xfffffffffffff000" "data_offset 1" \
        "data_offset 0xfffffffffff00000" "journal_offset 65536" "journal_size 0" "journal_size 0xffffffffffff0000" \
        "table_offset 0" "table_capacity 0" "page_size 512" "header_size 1" "target 0" "journal_position 0xfffffffffffffff8"; do
        rm -f m.km
        make_map m.km
        # shellcheck disable=SC2086
        header m.km both $change
        refuses 5 "" m.km || {
            echo "with $change" >&2
            return 1
        }
    done
}

@test "a data size in the header that is larger than the file" {
    make_map m.km --max-size 1M
    header m.km both data_capacity 0x10000000000 data_size 0x10000000000
    refuses 5 "" m.km
}

@test "a file system that does not share memory coherently needs --any-filesystem" {
    [ -r /proc/self/status ] || skip "no /proc"
    # A file of /proc is a regular file on a file system that is not on the list.
    attempt info /proc/self/status
    [[ $status -eq 5 || $status -eq 7 ]]
    [[ $stderr == "keepmap: info /proc/self/status: "* ]]
    # Where there is nothing to object to, the option changes nothing.
    make_map m.km
    expect 0 info m.km --any-filesystem
}

@test "random damage never crashes the tool" {
    make_map m.km
    crash m.km commit commit
    local seed=${KEEPMAP_SEED:-$RANDOM} round verb
    echo "KEEPMAP_SEED=$seed"
    RANDOM=$seed
    for ((round = 0; round < 25; round++)); do
        cp m.km damaged.km
        flip damaged.km $(((RANDOM * 32768 + RANDOM) % 65536))
        flip damaged.km $((RANDOM % 8192))
        flip damaged.km $(($(header m.km a journal_offset) + RANDOM % 1000))
        local before
        before=$(checksum damaged.km)
        for verb in info read verify log who; do
            attempt "$verb" damaged.km
            [ "$status" -le 7 ]
        done
        same "$before" "$(checksum damaged.km)"
        attempt sync damaged.km
        [ "$status" -le 7 ]
    done
}
