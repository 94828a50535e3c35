#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The reader at the end of docs/format.md, which shares nothing with the library, reads what the library wrote.

load helper

setup_file() {
    local top
    top=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    # The block of C under the last heading.
    awk '/^## A reader in C/ { here = 1 } /^```/ { inside = here && $0 == "```c"; next } inside' \
        "$top/docs/format.md" >"$BATS_FILE_TMPDIR/reader.c"
    "${CC:-cc}" -O2 -o "$BATS_FILE_TMPDIR/reader" "$BATS_FILE_TMPDIR/reader.c"
}

# agrees FILE: the reader, on the bytes as they lie there, gives the data and the generation that the tool gives.
agrees() {
    local told
    "$BATS_FILE_TMPDIR/reader" <"$1" >by-reader 2>words || {
        cat words >&2
        return 1
    }
    told="generation $(keepmap info "$1" --json | jq -r .generation), "
    [[ $(cat words) == "$told"* ]] || {
        printf 'the reader said %s, not %s\n' "$(cat words)" "$told" >&2
        return 1
    }
    cp "$1" copy.km
    keepmap read copy.km | cmp - by-reader
}

# leave_frames FILE: twenty commits that stay in the journal, as the process that had the map open is killed.
leave_frames() {
    local i
    hold "$1" idle
    for ((i = 1; i <= 20; i++)); do
        noise $((i * 331)) | keepmap write "$1" --offset $((i * 2777)) --quiet
    done
    kill -KILL "$HOLDER"
    wait "$HOLDER" 2>/dev/null || true
    [ "$(keepmap info "$1" --json | jq .checkpoint_generation)" = 1 ]
}

# leave_one_more FILE: a commit of a process that is killed behind it.
leave_one_more() {
    hold "$1" commit
    kill -KILL "$HOLDER"
    wait "$HOLDER" 2>/dev/null || true
}

@test "the documented reader reads a map that was closed" {
    make_map m.km --size 100001
    noise 70000 | keepmap write m.km --offset 30000 --quiet
    agrees m.km
}

@test "the documented reader applies the frames that a crash left" {
    make_map m.km --size 100001
    leave_frames m.km
    agrees m.km
}

@test "the documented reader reads whole-page journals" {
    make_map m.km --size 100001 --full-pages
    leave_frames m.km
    agrees m.km
}

@test "the documented reader reads maps without page checksums" {
    make_map m.km --size 100001 --checksum none
    leave_frames m.km
    agrees m.km
}

@test "the documented reader reads maps with the CRC of zlib" {
    keepmap create m.km --size 100001 --checksum crc32 --quiet || skip "this build has no zlib"
    printf one | keepmap write m.km --quiet
    leave_frames m.km
    agrees m.km
}

@test "the documented reader reads maps that grew, in place and with their regions moved" {
    make_map m.km --size 100001 --max-size 200000
    hold m.km idle
    keepmap grow m.km 150001 --quiet
    printf behind | keepmap write m.km --offset 149990 --quiet
    kill -KILL "$HOLDER"
    wait "$HOLDER" 2>/dev/null || true
    agrees m.km

    keepmap grow m.km 3000001 --quiet
    noise 7000 | keepmap write m.km --offset 2990000 --quiet
    agrees m.km
    leave_one_more m.km
    agrees m.km
}

@test "the documented reader reads live maps, and tells changed pages from damaged ones" {
    keepmap create m.km --live --size 100001 --quiet
    noise 70000 | keepmap write m.km --offset 30000 --quiet
    agrees m.km
    keepmap grow m.km 3000001 --quiet
    noise 7000 | keepmap write m.km --offset 2990000 --quiet
    agrees m.km
    cp m.km flipped.km
    flip flipped.km $(($(header m.km a data_offset) + 40000))
    local result=0
    "$BATS_FILE_TMPDIR/reader" <flipped.km >/dev/null 2>words || result=$?
    [ "$result" = 1 ] && grep -q ", 1 damaged pages" words

    crash m.km commit commit # no seal: only the reader and the tool without write permission leave it so
    "$BATS_FILE_TMPDIR/reader" <m.km >by-reader 2>words
    grep -q ", 1 changed pages" words
    keepmap read m.km | cmp - by-reader
    same 1 "$(keepmap verify m.km --json | jq .pages_changed)"
}

@test "the documented reader finds a flipped bit of the data and of the journal" {
    make_map m.km --size 100001
    leave_frames m.km
    local data journal
    data=$(header m.km a data_offset)
    journal=$(header m.km a journal_offset)
    cp m.km flipped.km
    flip flipped.km $((data + 12))
    local result=0
    "$BATS_FILE_TMPDIR/reader" <flipped.km >/dev/null 2>words || result=$?
    [ "$result" = 1 ] && grep -q ", 1 damaged pages" words
    cp m.km flipped.km
    flip flipped.km $((journal + $(header m.km a journal_position) + 150))
    "$BATS_FILE_TMPDIR/reader" <flipped.km 2>&1 >/dev/null | grep -q "^generation 1,"
}
