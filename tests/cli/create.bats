#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

load helper

@test "create makes a map of zeros with the defaults" {
    expect 0 create m.km --size 64K
    [[ $output == "created m.km: 65536 bytes (64 KiB) of data, 1 MiB of journal, checksum crc32c" ]]
    same 600 "$(stat -c %a m.km)"
    expect 0 info m.km --json
    same "65536 65536 0 true transactional crc32c null" \
        "$(json '"\(.size) \(.max_size) \(.generation) \(.clean) \(.mode) \(.checksum) \(.schema)"')"
    keepmap read m.km | cmp - <(head -c 65536 /dev/zero)
    expect 0 verify m.km
}

@test "create reports as JSON" {
    expect 0 create m.km --size 64K --max-size 1M --journal 2M --json
    same '["checksum","generation","journal_size","max_size","mode","size","target"]' "$(jq -c keys <<<"$output")"
    same "m.km 0 65536 1048576 2097152 crc32c" \
        "$(json '"\(.target) \(.generation) \(.size) \(.max_size) \(.journal_size) \(.checksum)"')"
}

@test "create --quiet says nothing" {
    expect 0 create m.km --size 64K --quiet
    same "" "$output$stderr"
    expect 0 create n.km --size 64K -q
    same "" "$output$stderr"
}

@test "create takes any size from one byte on" {
    local size
    for size in 1 4095 4096 4097 65537; do
        expect 0 create "m$size.km" --size "$size"
        same "$size" "$(keepmap read "m$size.km" | wc -c)"
        expect 0 verify "m$size.km"
    done
}

@test "create records the schema, and another one is refused" {
    keepmap create m.km --size 64K --schema counter:3 --quiet
    expect 0 info m.km --json
    same "counter 3" "$(json '"\(.schema) \(.schema_version)"')"
    expect 0 info m.km --schema counter:3
    local before
    before=$(checksum m.km)
    refused 6 "counter" info m.km --schema counter:4
    refused 6 "counter" read m.km --schema other:3
    refused 6 "counter" write m.km --schema other:3
    refused 6 "counter" sync m.km --schema counter:2
    same "$before" "$(checksum m.km)"
    keepmap create n.km --size 64K --schema a:b:7 --quiet
    expect 0 info n.km --json
    same "a:b 7" "$(json '"\(.schema) \(.schema_version)"')"
}

@test "create sets the permissions that were asked for, whatever the umask" {
    local mode
    for mode in 0600 640 0664 0777; do
        (umask 077 && keepmap create "m$mode.km" --size 4K --permissions "$mode" --quiet)
        same "$((8#$mode))" "$((8#$(stat -c %a "m$mode.km")))"
    done
}

@test "create makes maps with each kind of checksum" {
    local kind
    for kind in crc32c none; do
        expect 0 create "$kind.km" --size 64K --checksum "$kind"
        same "$kind" "$(keepmap info "$kind.km" --json | jq -r .checksum)"
    done
    attempt create crc32.km --size 64K --checksum crc32
    if [ "$status" -eq 7 ]; then
        [[ $stderr == *zlib* ]]
        [ ! -e crc32.km ]
        skip "this build has no zlib"
    fi
    same 0 "$status"
    printf hello | keepmap write crc32.km --quiet
    expect 0 verify crc32.km
    flip crc32.km "$(header crc32.km a data_offset)"
    expect 1 verify crc32.km
}

@test "create records --full-pages and --compress" {
    keepmap create full.km --size 64K --full-pages --quiet
    expect 0 info full.km --json
    same "true false" "$(json '"\(.full_pages) \(.compress)"')"
    attempt create packed.km --size 64K --compress
    if [ "$status" -eq 7 ]; then
        [[ $stderr == *zlib* ]]
        skip "this build has no zlib"
    fi
    expect 0 info packed.km --json
    same "false true" "$(json '"\(.full_pages) \(.compress)"')"
    head -c 65536 /dev/zero | tr '\0' x | keepmap write packed.km --quiet
    same "$(head -c 65536 /dev/zero | tr '\0' x | sha256sum)" "$(keepmap read packed.km | sha256sum)"
}

@test "an existing map is never overwritten without --force" {
    make_map m.km
    local before
    before=$(checksum m.km)
    refused 4 "--force" create m.km --size 1M
    same "$before" "$(checksum m.km)"
}

@test "what is no map is not overwritten, even with --force" {
    echo 'my only copy' >text
    refused 4 "exists" create text --size 1M
    refused 5 "" create text --size 1M --force
    same 'my only copy' "$(cat text)"
    : >empty
    refused 4 "exists" create empty --size 1M
    attempt create empty --size 1M --force
    same 5 "$status"
    [ ! -s empty ]
    mkdir directory
    attempt create directory --size 1M --force
    same 2 "$status"
    attempt create directory --size 1M
    [ "$status" -ne 0 ]
}

@test "--force replaces a map that nobody has open" {
    make_map m.km
    expect 0 create m.km --size 128K --force
    same "131072 0" "$(keepmap info m.km --json | jq -r '"\(.size) \(.generation)"')"
    expect 0 create new.km --size 64K --force
    expect 0 verify new.km
}

@test "--force never replaces a map that somebody has open" {
    make_map m.km
    local before words
    for words in idle read write "readonly idle" "readonly read"; do
        # shellcheck disable=SC2086
        hold m.km $words
        refused 4 "open" create m.km --size 128K --force --timeout 0.2
        release "$HOLDER"
        same 262144 "$(keepmap info m.km --json | jq .size)"
        same "generation 1" "$(keepmap read m.km --length 12)"
    done
    expect 0 create m.km --size 128K --force
}

@test "--force does not replace a map that keepmap read is reading" {
    make_map m.km --size 4M
    mkfifo pipe
    "$KEEPMAP" read m.km >pipe 3>&- &
    PIDS+=("$!")
    exec 8<pipe
    wait_until eval 'keepmap who m.km --json | jq -e .read_only_handles >/dev/null'
    refused 4 "open" create m.km --size 128K --force --timeout 0.2
    same 4194304 "$(cat <&8 | wc -c)"
    exec 8<&-
    wait "${PIDS[0]}"
    expect 0 create m.km --size 128K --force
}

@test "a refused create leaves nothing behind" {
    refused 2 "" create m.km --size 16777215T
    refused 3 "" create missing/m.km --size 1M
    attempt create m.km --size 1M --journal 16777215T
    same 2 "$status"
    [ -z "$(ls -A "$DIR")" ]
}

@test "create --from begins with the bytes of a file" {
    noise 100001 >input
    expect 0 create m.km --from input
    [[ $output == "created m.km: 100001 bytes "* ]]
    keepmap read m.km | cmp - input
    same 0 "$(keepmap info m.km --json | jq .generation)"
    expect 0 verify m.km
    expect 0 create n.km --from input --size 256K --checksum none
    keepmap read n.km --length 100001 | cmp - input
    same "" "$(keepmap read n.km --offset 100001 | tr -d '\0')"
    # The file and the map go their own ways.
    printf changed | keepmap write m.km --quiet
    noise 100001 | cmp - input
}

@test "create --from refuses what it cannot take, and makes nothing" {
    noise 1000 >input
    : >empty
    mkdir directory
    refused 2 "less than the 1000 bytes" create m.km --from input --size 999
    refused 2 "--max-size" create m.km --from input --size 1000 --max-size 999
    refused 2 "empty" create m.km --from empty
    refused 2 "directory" create m.km --from directory
    refused 3 "" create m.km --from missing
    refused 2 "'keepmap write'" create m.km --from -
    refused 2 "the file's path is empty" create m.km --from ""
    refused 2 "" create m.km --from input --max-size 999
    [ ! -e m.km ]
    expect 0 create m.km --from empty --size 64K
}
