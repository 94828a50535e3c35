#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Bad input: each a distinct error with its exit status; never a crash, never a change to the file.

load helper

# refuses STATUS WORDS FILE: every verb refuses the file with that status and leaves it as it is.
refuses() {
    local before verb
    [ -f "$3" ] && before=$(checksum "$3")
    for verb in info read write verify log who watch sync checkpoint client; do
        refused "$1" "$2" "$verb" "$3" || return 1
        [[ $stderr == "keepmap: $verb $3: "* ]] || {
            echo "not in the usual form: $stderr" >&2
            return 1
        }
    done
    refused "$1" "$2" grow "$3" 1M || return 1
    refused "$1" "$2" copy "$3" refused.copy || return 1
    [ ! -e refused.copy ] || return 1
    [ ! -f "$3" ] || same "$before" "$(checksum "$3")"
}

@test "a file that does not exist" {
    refuses 3 "" missing.km
    refuses 3 "" missing/missing.km
    refused 3 "'keepmap create' makes a new map" info missing.km
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
    for verb in info read verify log who client; do
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

@test "live maps: a cut file, damaged headers and fields that do not fit" {
    make_map l.km --live
    local full change
    full=$(stat -c %s l.km)
    for change in 1 4096 8192 65536 131072 $((full - 4096)) $((full - 1)); do
        head -c "$change" l.km >short
        refuses 5 "" short
    done
    for change in "data_size 0" "data_size 0xffffffffffffffff" "data_offset 1" "journal_size 65536" "table_offset 0" \
        "generation 1 journal_position 8" "target 5" "feature_incompatible 1"; do
        cp l.km m.km
        # shellcheck disable=SC2086
        header m.km both $change
        attempt info m.km
        [[ $status -ge 5 && $status -le 6 && $stderr == "keepmap: info m.km: "* ]] || {
            echo "with $change: $status $stderr" >&2
            return 1
        }
    done
    flip l.km 300
    flip l.km $((4096 + 300))
    refuses 5 "" l.km
}

@test "random damage never crashes the tool" {
    make_map m.km
    crash m.km commit commit
    make_map live.km --live
    crash live.km commit write store
    local seed=${KEEPMAP_SEED:-$RANDOM} round verb map
    echo "KEEPMAP_SEED=$seed"
    RANDOM=$seed
    for ((round = 0; round < 30; round++)); do
        map=m.km
        [ $((round % 3)) != 2 ] || map=live.km
        cp $map damaged.km
        flip damaged.km $(((RANDOM * 32768 + RANDOM) % 65536))
        flip damaged.km $((RANDOM % 8192))
        [ $map = live.km ] || flip damaged.km $(($(header m.km a journal_offset) + RANDOM % 1000))
        local before
        before=$(checksum damaged.km)
        for verb in info read verify log who client; do
            attempt "$verb" damaged.km --timeout 0.1
            [ "$status" -le 7 ]
        done
        attempt copy damaged.km damaged.copy
        [ "$status" -le 7 ]
        rm -f damaged.copy
        attempt watch damaged.km --since 0 --count 1 --timeout 0.1
        [ "$status" -le 7 ]
        same "$before" "$(checksum damaged.km)"
        attempt sync damaged.km
        [ "$status" -le 7 ]
    done
}
