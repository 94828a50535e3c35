#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# copy: a map of its own, as it stood at one commit.

load helper

@test "a copy is a map of its own with the same data, generation and settings" {
    make_map m.km --max-size 1M --schema counter:3 --permissions 0640
    printf more | keepmap write m.km --quiet --offset 100K
    expect 0 copy m.km copy.km
    same "copied m.km to copy.km: 262144 bytes (256 KiB), generation 2" "$output"
    cmp <(keepmap read m.km) <(keepmap read copy.km)
    local keys='[.mode, .size, .max_size, .schema, .schema_version, .checksum, .generation, .digest, .state] | map(tostring) | join(" ")'
    same "$(keepmap info m.km --json | jq -r "$keys")" "$(keepmap info copy.km --json | jq -r "$keys")"
    [ "$(keepmap info m.km --json | jq .uuid)" != "$(keepmap info copy.km --json | jq .uuid)" ]
    same 640 "$(stat -c %a copy.km)"
    expect 0 verify copy.km
    # Each goes its own way from here.
    printf x | keepmap write copy.km --quiet
    same 2 "$(keepmap info m.km --json | jq .generation)"
    same 3 "$(keepmap info copy.km --json | jq .generation)"
}

@test "copy reports as JSON" {
    make_map m.km
    expect 0 copy m.km copy.km --json
    same '{"target":"m.km","generation":1,"size":262144,"copy":"copy.km","mode":"transactional"}' "$(jq -c . <<<"$output")"
    expect 0 copy m.km quiet.km --quiet
    same "" "$output$stderr"
}

@test "a copy never replaces anything, and appears whole or not at all" {
    make_map m.km
    printf mine >there
    refused 4 "exists already" copy m.km there
    [[ $stderr != *--force* ]]
    same mine "$(cat there)"
    refused 4 "exists already" copy m.km m.km
    refused 3 "missing/copy.km: cannot create" copy m.km missing/copy.km
    [[ $stderr != *"keepmap create"* ]]
    refused 2 "the path of the copy is empty" copy m.km ""
    refused 2 "'keepmap read'" copy m.km -
    refused 2 "ends with its last user" copy m.km 'Local\copy'
    refused 2 "" copy m.km 'Global\copy'
    expect 0 verify m.km
    same "m.km there" "$(ls | xargs)"
}

@test "a damaged page is not copied" {
    make_map m.km
    local data
    data=$(od -An -tu8 -j176 -N8 m.km | tr -d ' ')
    flip m.km $((data + 3 * 4096))
    refused 5 "" copy m.km copy.km
    [ ! -e copy.km ]
}

@test "what was committed and not yet checkpointed is in the copy, of a map in use too" {
    make_map m.km
    hold m.km commit commit write
    expect 0 copy m.km copy.km
    same 3 "$(keepmap info copy.km --json | jq .generation)"
    cmp <(keepmap read m.km) <(keepmap read copy.km)
    expect 0 verify copy.km
}

@test "copies made while others write are each one commit" {
    keepmap create m.km --size 1M --quiet
    # Every commit fills the map with one letter.
    (
        while [ ! -e stop ]; do
            for letter in a b c d; do
                head -c 1048576 /dev/zero | tr '\0' $letter | keepmap write m.km --quiet
            done
        done
    ) 3>&- &
    local writer=$! i
    for i in 1 2 3 4 5 6; do
        keepmap copy m.km copy$i.km --quiet
        same 1 "$(keepmap read copy$i.km | tr -s 'a-d\0' | wc -c)"
        keepmap verify copy$i.km --quiet
    done
    : >stop
    wait "$writer"
}

@test "holes stay holes" {
    keepmap create m.km --size 256M --journal 1M --quiet
    printf end | keepmap write m.km --quiet --offset 255M
    if [ "$(stat -c %b m.km)" -gt 100000 ]; then
        skip "this file system has no holes here"
    fi
    keepmap copy m.km copy.km --quiet
    [ "$(($(stat -c %b copy.km) * 512))" -lt $((8 << 20)) ]
    same end "$(keepmap read copy.km --offset 255M --length 3)"
}

@test "a live map is copied, sealed" {
    make_map m.km --live
    hold m.km commit
    expect 0 copy m.km copy.km
    cmp <(keepmap read m.km) <(keepmap read copy.km)
    expect 0 info copy.km --json
    same "live clean 2" "$(json '"\(.mode) \(.state) \(.generation)"')"
    expect 0 verify copy.km
    same "copy.km is sound: generation 2, 64 pages, both header slots" "$output"
}

@test "raw bytes are copied with --raw" {
    noise 100001 >f
    expect 0 copy f g --raw
    same "copied f to g: 100001 bytes (97.7 KiB)" "$output"
    cmp f g
    expect 0 copy f h --raw --json
    same '{"target":"f","size":100001,"copy":"h","mode":"raw"}' "$(jq -c . <<<"$output")"
    refused 4 "exists already" copy f g --raw
    refused 5 "--raw" copy f i
    [ ! -e i ]
}

@test "an object of the paging file is copied into a file" {
    local kind
    for kind in "" --live --raw; do
        rm -f maker.* copy.km
        # shellcheck disable=SC2086
        start maker create 'Local\a' --size 64K --quiet $kind
        local raw=${kind/--live/}
        # shellcheck disable=SC2086
        wait_until eval "keepmap info 'Local\\a' $raw >/dev/null 2>&1"
        # shellcheck disable=SC2086
        printf words | keepmap write 'Local\a' --quiet $raw
        # shellcheck disable=SC2086
        expect 0 copy 'Local\a' copy.km $raw
        press maker
        ended 0 "$STARTED"
        # shellcheck disable=SC2086
        same words "$(keepmap read copy.km --length 5 $raw)"
    done
}

@test "a full disk leaves no half of a copy" {
    need_root
    keepmap create m.km --size 8M --journal 1M --quiet
    noise 8388608 | keepmap write m.km --quiet
    small_disk 4M
    refused 7 "" copy m.km disk/copy.km
    [ -z "$(ls -A disk)" ]
    expect 0 verify m.km
}
