#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# What the tool says of the golden files; tests/compat/test_compat.c has what the library does with them.

load helper

# gives_listing NAME: the tool says of the file what its listing says.
gives_listing() {
    KEEPMAP=$KEEPMAP "$TOP/tests/compat/listing" "$TOP/data/golden/$1.km" |
        diff -u --label "$1: what it must say" --label "$1: what it says" "$TOP/data/golden/$1.txt" - >&2
}

needs_zlib() {
    [ "$1" = v1-crc32 ] || [ "$1" = v1-compressed ]
}

@test "each golden file gives its listing" {
    local file name wrong=0 count=0
    for file in "$TOP"/data/golden/*.km; do
        name=$(basename "$file" .km)
        needs_zlib "$name" && continue
        gives_listing "$name" || wrong=$((wrong + 1))
        count=$((count + 1))
    done
    same 0 "$wrong"
    [ "$count" -ge 26 ]
}

@test "the golden files that need zlib give their listings" {
    local message
    if ! message=$(keepmap info "$TOP/data/golden/v1-crc32.km" 2>&1) && [[ $message == *"this build lacks zlib"* ]]; then
        skip "this build lacks zlib"
    fi
    gives_listing v1-crc32
    gives_listing v1-compressed
}

@test "each golden file has a listing, and each listing a file" {
    same "$(cd "$TOP/data/golden" && printf '%s\n' *.km | sed 's/\.km$//')" \
        "$(cd "$TOP/data/golden" && printf '%s\n' *.txt | sed 's/\.txt$//')"
}

@test "a listing ends with the sum of the data" {
    local sum
    sum=$(keepmap read "$TOP/data/golden/v1-killed.km" | sha256sum | cut -d' ' -f1)
    same "$sum" "$(tail -n 1 "$TOP/data/golden/v1-killed.txt")"
}
