#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Raw bytes: files that keepmap does not own.

load helper

@test "create --raw makes a file of zeros, and nothing but them" {
    expect 0 create z.raw --raw --size 100001
    same "created z.raw: 100001 bytes (97.7 KiB) of raw data" "$output"
    same 100001 "$(stat -c %s z.raw)"
    same 600 "$(stat -c %a z.raw)"
    same "" "$(tr -d '\0' <z.raw)"
    expect 0 create y.raw --raw --size 5 --json --permissions 0644
    same '{"target":"y.raw","size":5,"mode":"raw"}' "$(jq -c . <<<"$output")"
    same 644 "$(stat -c %a y.raw)"
    refused 4 "exists already" create z.raw --raw --size 5
    [[ $stderr != *--force* ]]
    same 100001 "$(stat -c %s z.raw)"
}

@test "create --raw --from copies bytes" {
    noise 70000 >input
    expect 0 create a.raw --raw --from input
    cmp input a.raw
    expect 0 create b.raw --raw --from input --size 80000
    same 80000 "$(stat -c %s b.raw)"
    cmp -n 70000 input b.raw
    same "" "$(tail -c +70001 b.raw | tr -d '\0')"
    refused 2 "less than the 70000 bytes" create c.raw --raw --from input --size 69999
    [ ! -e c.raw ]
}

@test "options that need a header make no sense with --raw" {
    local option
    for option in --max-size=1M --journal=1M --checksum=none --compress --full-pages --live; do
        refused 2 "no header that could keep it" create r.raw --raw --size 64K $option
    done
    refused 2 "--schema with --raw" create r.raw --raw --size 64K --schema a:1
    : >r.raw
    refused 2 "remove the file first" create r.raw --raw --size 64K --force
    [ -f r.raw ] && [ ! -s r.raw ]
}

@test "read and write reach the bytes of any file, and change no others" {
    noise 100000 >f
    cp f before
    keepmap read f --raw | cmp - f
    keepmap read f --raw --offset 99999 | cmp - <(tail -c 1 f)
    run --separate-stderr keepmap write f --raw --offset 5000 <<<"words"
    same "wrote 6 bytes to f" "$output"
    same 100000 "$(stat -c %s f)"
    cmp -n 5000 f before
    same words "$(tail -c +5001 f | head -n 1)"
    cmp <(tail -c +5007 f) <(tail -c +5007 before)
    printf END | keepmap write f --raw --offset 99997 --quiet --lazy
    same END "$(tail -c 3 f)"
    run --separate-stderr keepmap write f --raw --json <<<"x"
    same '["lazy","size","target","written"]' "$(jq -c keys <<<"$output")"
}

@test "input longer than the file changes nothing" {
    noise 10000 >f
    cp f before
    head -c 10001 /dev/zero >input
    run --separate-stderr keepmap write f --raw <input
    same 2 "$status"
    [[ $stderr == *"longer than the 10000 bytes"*"nothing was changed"* ]]
    run --separate-stderr keepmap write f --raw --offset 10001 </dev/null
    same 2 "$status"
    refused 2 "holds 10000 bytes" read f --raw --offset 10001
    refused 2 "holds 10000 bytes" read f --raw --length 10001
    cmp f before
}

@test "a raw write that is killed before its input ends changes nothing" {
    noise 100000 >f
    cp f before
    mkfifo pipe
    "$KEEPMAP" write f --raw <pipe 3>&- &
    PIDS+=("$!")
    exec 8>pipe
    noise 90000 | tr 'a-z' 'b-za' >&8
    wait_until eval '[ "$(keepmap info f --raw --json | jq .handles)" = 1 ]'
    kill -KILL "${PIDS[0]}"
    exec 8>&-
    cmp f before
}

@test "info --raw tells sizes and who is at it" {
    noise 100000 >f
    hold f raw idle
    expect 0 info f --raw --json
    same "raw 100000 100000 1 false false" \
        "$(json '"\(.mode) \(.size) \(.file_size) \(.handles) \(.read_only_handles) \(.paging_file)"')"
    hold f readonly raw idle
    expect 0 info f --raw
    [[ $output == *"none: raw bytes"*"size          100000 bytes"*"writers       1"*"readers       at least one"* ]]
}

@test "sync --raw makes what was written durable" {
    noise 100000 >f
    expect 0 sync f --raw
    same "f is durable" "$output"
    expect 0 sync f --raw --json
    same '{"target":"f","size":100000}' "$(jq -c . <<<"$output")"
}

@test "a map is not written to as raw bytes, but can be read so" {
    make_map m.km
    local before
    before=$(checksum m.km)
    run --separate-stderr keepmap write m.km --raw <<<"x"
    same 2 "$status"
    [[ $stderr == *"keepmap map"* ]]
    refused 2 "keepmap map" sync m.km --raw
    [[ $stderr == *"leave --raw out" ]]
    same "$before" "$(checksum m.km)"
    keepmap read m.km --raw | cmp - m.km
    expect 0 info m.km --raw --json
    same "$(stat -c %s m.km)" "$(json .size)"
    expect 0 copy m.km same.km --raw
    cmp m.km same.km
}

@test "without --raw, what is no map is refused, and --raw is named" {
    noise 100000 >f
    local verb
    for verb in info read write verify log who watch sync checkpoint client; do
        refused 5 "--raw takes the bytes of any file" "$verb" f
    done
}

@test "what has no bytes to map is refused" {
    : >empty
    mkdir directory
    mkfifo pipe
    local verb
    for verb in info read write sync client; do
        refused 5 "empty" "$verb" empty --raw
        refused 2 "directory" "$verb" directory --raw
        refused 5 "regular file" "$verb" pipe --raw
        refused 5 "regular file" "$verb" pipe
        [[ $stderr != *--raw* ]]
        refused 3 "" "$verb" missing --raw
    done
}

@test "a file that may only be read is read" {
    need_root
    cp "$KEEPMAP" tool
    chmod 755 tool
    noise 100000 >f
    chmod 444 f
    run bash -c 'setpriv --reuid=65534 --regid=65534 --clear-groups ./tool read f --raw | cmp - f'
    same 0 "$status"
    run --separate-stderr as_nobody ./tool write f --raw </dev/null
    same 7 "$status"
    [[ $stderr == *"ermission"* ]]
}

@test "a file that grew is read as it was at the open, the next time whole" {
    noise 50000 >f
    keepmap read f --raw | cmp - f
    printf more >>f
    keepmap read f --raw | cmp - f
}
