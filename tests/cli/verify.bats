#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

load helper

# random_map FILE [OPTIONS...]: a map of 64 pages and a bit, filled with noise, closed cleanly.
random_map() {
    local file=$1
    shift
    keepmap create "$file" --size 262244 --quiet "$@"
    noise 262244 | keepmap write "$file" --quiet
}

@test "a sound map is found sound" {
    random_map m.km
    expect 0 verify m.km
    same "m.km is sound: generation 1, 65 pages, 0 commits in the journal, both header slots" "$output"
    expect 0 verify m.km --json
    same "true true 0 0 0 true 65" \
        "$(json '"\(.complete) \(.sound) \(.pages_damaged) \(.frames_damaged) \(.headers_damaged) \(.digest_matches) \(.pages)"')"
    same "[]" "$(jq -c .findings <<<"$output")"
    expect 0 verify m.km --quiet
    same "" "$output$stderr"
}

@test "a flipped bit in the data is found, its page named, and nothing is changed" {
    random_map m.km
    local before
    flip m.km $(($(header m.km a data_offset) + 5 * 4096 + 1234))
    before=$(checksum m.km)
    expect 1 verify m.km
    [[ ${lines[0]} =~ ^page\ 5\ is\ damaged:\ bytes\ 20480\ to\ 24575\ of\ the\ data,\ stored\ checksum\ [0-9a-f]{8},\ found\ [0-9a-f]{8}$ ]]
    [[ $output == *"m.km is DAMAGED: 1 of 65 pages, 0 commits in the journal, 0 of 2 header slots"*"restore it from a copy"* ]]
    expect 1 verify m.km --json
    same "false 1 page KM_ECORRUPT 5 20480 24575" \
        "$(json '.findings[0] as $f | "\(.sound) \(.pages_damaged) \($f.kind) \($f.error) \($f.page) \($f.first_byte) \($f.last_byte)"')"
    same true "$(json '.findings[0] | .stored_checksum != .found_checksum')"
    expect 1 verify m.km --quiet
    same 1 "$(grep -c '^page 5 is damaged' <<<"$output")"
    same "$before" "$(checksum m.km)"
}

@test "every flipped page is named, the last one with its true length" {
    random_map m.km
    local data page
    data=$(header m.km a data_offset)
    for page in 0 1 33 64; do
        flip m.km $((data + page * 4096 + 99))
    done
    expect 1 verify m.km --json
    same "0,1,33,64" "$(json '[.findings[].page] | join(",")')"
    same "262144 262243" "$(json '.findings[-1] | "\(.first_byte) \(.last_byte)"')"
    same 4 "$(json .pages_damaged)"
}

@test "a bit flipped in a page that was never written is found" {
    keepmap create m.km --size 1M --quiet
    flip m.km $(($(header m.km a data_offset) + 77 * 4096))
    expect 1 verify m.km
    [[ ${lines[0]} == "page 77 is damaged: bytes 315392 to 319487 of the data, stored checksum "* ]]
}

@test "a flipped bit in the checksums is found" {
    random_map m.km
    flip m.km $(($(header m.km a table_offset) + 7 * 4))
    expect 1 verify m.km --json
    same 7 "$(json '.findings[] | select(.kind == "page") | .page')"
}

@test "a map without page checksums says that it cannot tell" {
    random_map m.km --checksum none
    flip m.km $(($(header m.km a data_offset) + 5))
    expect 0 verify m.km
    [[ $output == *"no page checksums"* ]]
    expect 0 verify m.km --json
    same 0 "$(json .pages_checked)"
}

@test "a damaged header slot is named, and the other one carries the map" {
    local slot offset
    for slot in A B; do
        random_map "$slot.km"
        offset=$([ $slot = A ] && echo 200 || echo $((4096 + 200)))
        flip "$slot.km" "$offset"
        local before
        before=$(checksum "$slot.km")
        expect 1 verify "$slot.km"
        [[ $output == "header slot $slot is damaged"*"1 of 2 header slots"*"nothing is lost"* ]]
        expect 1 verify "$slot.km" --json
        same "$slot header KM_EHEADER 1" \
            "$(json '.findings[0] as $f | "\($f.slot) \($f.kind) \($f.error) \(.headers_damaged)"')"
        expect 0 info "$slot.km"
        [[ $output == *"$slot is damaged"* ]]
        same "$before" "$(checksum "$slot.km")"
        same 262244 "$(keepmap read "$slot.km" | wc -c)"
        # The next session makes both slots good again.
        printf x | keepmap write "$slot.km" --quiet
        expect 0 verify "$slot.km"
    done
}

@test "damage in a durable commit of the journal is never taken for the end of it" {
    make_map m.km
    crash m.km commit commit commit
    local position distance before
    position=$(($(header m.km a journal_offset) + $(header m.km a journal_position)))
    for distance in 0 16 100 115; do # the head of the frame, its body
        cp m.km damaged.km
        flip damaged.km $((position + distance))
        before=$(checksum damaged.km)
        expect 1 verify damaged.km
        [[ $output == "commit "*" was durable, but the frame of commit 2 is damaged"*"(byte $position of the file)"*"1 commit in the journal"* ]]
        expect 1 verify damaged.km --json
        same "journal KM_EJOURNAL 2 $position 1" \
            "$(json '.findings[0] as $f | "\($f.kind) \($f.error) \($f.generation) \($f.file_offset) \(.frames_damaged)"')"
        refused 5 "commit 2" read damaged.km
        refused 5 "commit 2" sync damaged.km
        refused 5 "commit 2" write damaged.km
        same "$before" "$(checksum damaged.km)"
    done
}

@test "verify works while others commit" {
    make_map m.km
    hold m.km commit read
    printf more | keepmap write m.km --quiet
    expect 0 verify m.km --json
    same "true true" "$(json '"\(.complete) \(.sound)"')"
    same true "$(json '.frames >= 1')"
}

@test "verify finds damage while others have the map open" {
    random_map m.km
    hold m.km idle
    flip m.km $(($(header m.km a data_offset) + 20 * 4096))
    expect 1 verify m.km
    [[ $output == *"page 20 is damaged: bytes 81920 to 86015"* ]]
}

@test "a full disk behind standard output ends verify with status 7" {
    [ -c /dev/full ] || skip "no /dev/full"
    random_map m.km
    flip m.km $(($(header m.km a data_offset) + 20 * 4096))
    run bash -c '"$0" verify m.km --json >/dev/full' "$KEEPMAP"
    same 7 "$status"
}

# shape: numbers and checksums do not matter.
shape() {
    sed -E 's/\b[0-9a-f]{8}\b/HEX/g; s/[0-9]+/N/g; s/slot [AB]/slot X/' | sort -u
}

@test "what docs/cli.md shows is what verify prints" {
    random_map page.km
    cp page.km slot.km
    make_map frame.km
    crash frame.km commit commit commit
    flip page.km $(($(header page.km a data_offset) + 5 * 4096))
    flip slot.km 200
    flip frame.km $(($(header frame.km a journal_offset) + $(header frame.km a journal_position)))
    local name
    for name in page slot frame; do
        attempt verify $name.km
        same 1 "$status"
        echo "${lines[0]}"
    done | shape >printed
    sed -n '/^## verify/,/^## /{/^```text/,/^```/p}' "$BATS_TEST_DIRNAME/../../docs/cli.md" | grep -v '^```' | head -n 3 |
        shape | diff - printed
}
