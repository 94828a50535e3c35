#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# info, log and who.

load helper

@test "info as JSON has every documented field, and no other" {
    make_map T.km
    make_map L.km --live
    keepmap create R.km --raw --size 64K --quiet
    local kind
    for kind in T L R; do
        # shellcheck disable=SC2046
        expect 0 info $kind.km --json $([ $kind != R ] || echo --raw)
        sed -n "/^### info/,/^## /s/^| \`\\([a-z_]*\\)\` | [TLR]*$kind[TLR]* .*/\\1/p" "$TOP/docs/cli.md" | sort >documented
        [ -s documented ]
        jq -r 'keys[]' <<<"$output" | sort | diff documented -
    done
}

@test "log, who and verify as JSON have every documented field, and no other" {
    make_map m.km
    hold m.km commit
    local verb
    for verb in log who verify; do
        attempt "$verb" m.km --json
        sed -n "/^### $verb/,/^### /s/^| \`\\([a-z_]*\\)\` .*/\\1/p" "$TOP/docs/cli.md" | sort >documented
        jq -r 'keys[], ((.commits // .users // [])[0] // {} | keys[])' <<<"$output" | sort -u | diff documented -
    done
}

@test "info tells what the map is" {
    make_map m.km --schema counter:3 --max-size 1M
    expect 0 info m.km
    [[ $output == "m.km"$'\n'* ]]
    [[ $output == *"format"*"version 1, transactional"* ]]
    [[ $output == *"schema"*"counter, version 3"* ]]
    [[ $output == *"size"*"262144 bytes (256 KiB)"* ]]
    [[ $output == *"max size"*"1048576 bytes (1 MiB)"* ]]
    [[ $output == *"generation"*"1 (durable: 1, checkpoint: 1)"* ]]
    [[ $output == *"checksum"*"crc32c, digest of the whole map "* ]]
    [[ $output == *"header slots"*"both good"* ]]
    [[ $output == *"state"*"clean"* ]]
    [[ $output == *"writers"*"0"* ]]
    same 0 "$(awk 'length > 110' <<<"$output" | wc -l)"
}

@test "info as JSON agrees with the file" {
    make_map m.km
    expect 0 info m.km --json
    same "$(stat -c %s m.km)" "$(json .file_size)"
    same "$(($(stat -c %b m.km) * 512))" "$(json .file_allocated)"
    [[ $(json .uuid) =~ ^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$ ]]
    [[ $(json .digest) =~ ^[0-9a-f]{16}$ ]]
    [[ $(json .created) =~ ^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{9}Z$ ]]
    # Created within the last minute.
    same true "$(json 'now - .created_ns / 1e9 | . >= 0 and . < 60')"
    same "$(date -u -d "$(json .created)" +%s)" "$(jq -r '.created_ns / 1e9 | floor' <<<"$output")"
}

@test "info tells who has the map open, and stays out of their way" {
    make_map m.km
    hold m.km write
    expect 0 info m.km
    [[ $output == *"state"*"in use"* ]]
    [[ $output == *"writers"*"1: process $HOLDER (tool_hold)"* ]]
    [[ $output == *"readers"*"none"* ]]
    expect 0 info m.km --json
    same "in_use 1 false false" "$(json '"\(.state) \(.handles) \(.clean) \(.read_only_handles)"')"
    hold m.km readonly idle
    expect 0 info m.km --json
    same true "$(json .read_only_handles)"
}

@test "info tells that a map was not closed cleanly" {
    make_map m.km
    crash m.km commit
    local before
    before=$(checksum m.km)
    expect 0 info m.km --json
    same "unclean 2" "$(json '"\(.state) \(.generation)"')"
    expect 0 info m.km
    [[ $output == *"not closed cleanly"* ]]
    same "$before" "$(checksum m.km)"
    keepmap sync m.km --quiet
    expect 0 info m.km --json
    same "clean 2" "$(json '"\(.state) \(.generation)"')"
}

@test "local times have a zone, and mean the same moment" {
    make_map m.km
    hold m.km commit
    local local_time utc
    local_time=$(TZ=Asia/Kolkata keepmap info m.km | sed -n 's/^  created *//p')
    [[ $local_time =~ ^[0-9-]{10}T[0-9:]{8}\.[0-9]{3}\+05:30$ ]] || [ ! -e /usr/share/zoneinfo/Asia/Kolkata ]
    local_time=$(TZ=TST+3:30 keepmap info m.km | sed -n 's/^  created *//p')
    [[ $local_time =~ ^[0-9-]{10}T[0-9:]{8}\.[0-9]{3}-03:30$ ]]
    utc=$(keepmap info m.km --json | jq -r .created)
    same "$(date -d "$utc" +%s)" "$(date -d "$local_time" +%s)"
}

@test "log lists the commits in the journal, newest last" {
    make_map m.km
    hold m.km commit commit commit
    expect 0 log m.km
    [[ ${lines[0]} == *generation*time*process*bytes*pages* ]]
    [[ ${lines[-1]} =~ ^\ +4\ \ 20[0-9-]{8}T[0-9:.]{12}[+-][0-9]{2}:[0-9]{2}\ +$HOLDER\ +1\ +1\  ]]
    expect 0 log m.km --json
    same "2,3,4" "$(json '[.commits[] | select(.generation > 1) | .generation] | join(",")')"
    same "$HOLDER 1 1 false 262144" \
        "$(json '.commits[-1] | "\(.process_id) \(.changed_bytes) \(.pages) \(.checkpointed) \(.size)"')"
    [[ $(json '.commits[-1].time') =~ ^20[0-9-]{8}T[0-9:]{8}\.[0-9]{9}Z$ ]]
    same "$(keepmap info m.km --json | jq -r .digest)" "$(json '.commits[-1].digest')"
}

@test "log --limit picks the newest" {
    make_map m.km
    hold m.km commit commit commit
    expect 0 log m.km --json --limit 2
    same "3,4" "$(json '[.commits[].generation] | join(",")')"
    expect 0 log m.km --json --limit 0
    same "" "$(json '[.commits[].generation] | join(",")')"
    expect 0 log m.km --limit 1
    same 2 "${#lines[@]}"
    expect 0 log m.km --limit 1000000000000 --json
    same 4 "$(json '.commits[-1].generation')"
}

@test "log tells what a checkpoint has brought home" {
    make_map m.km
    hold m.km commit
    expect 0 log m.km --json
    same false "$(json '.commits[-1].checkpointed | tostring')"
    keepmap checkpoint m.km --quiet
    expect 0 log m.km --json
    same 0 "$(json '[.commits[] | select(.checkpointed | not)] | length')"
}

@test "log of a map without commits is empty" {
    keepmap create m.km --size 64K --quiet
    expect 0 log m.km
    same "no commits stand in the journal" "$output"
    expect 0 log m.km --json
    same "[]" "$(jq -c .commits <<<"$output")"
}

@test "log tells which commits are compressed" {
    attempt create m.km --size 256K --compress --quiet
    [ "$status" -eq 0 ] || skip "this build has no zlib"
    # A reader holds the frame back from the checkpoint at close, so that it stays in the journal.
    hold m.km read
    head -c 65536 /dev/zero | tr '\0' x | keepmap write m.km --quiet
    expect 0 log m.km --json
    same "true 65536" "$(json '.commits[-1] | "\(.compressed) \(.changed_bytes)"')"
    same true "$(json '.commits[-1].frame_bytes < 10000')"
}

@test "who lists the handles that may write, and the generation each stands at" {
    make_map m.km
    expect 0 who m.km
    same "nobody has it open for writing" "$output"
    hold m.km read
    local reader=$HOLDER
    hold m.km idle
    local idler=$HOLDER
    expect 0 who m.km --json
    same "$(printf '%s\n' "$reader tool_hold true 1" "$idler tool_hold false null" | sort)" \
        "$(json '.users[] | "\(.process_id) \(.process_name) \(.in_transaction) \(.generation)"' | sort)"
    same 2 "$(json '[.users[].slot] | unique | length')"
    same true "$(json 'now - .users[0].attached_ns / 1e9 | . >= -1 and . < 60')"
    expect 0 who m.km
    [[ $output =~ $reader\ +tool_hold\ +20.*\ generation\ 1 ]]
    [[ $output =~ $idler\ +tool_hold\ +20.*\ no\ transaction ]]
    release "$reader"
    expect 0 who m.km --json
    same "$idler" "$(json '.users[].process_id')"
}

@test "who tells that there are read-only handles, and is none itself" {
    make_map m.km
    expect 0 who m.km --json
    same false "$(json '.read_only_handles | tostring')"
    hold m.km readonly idle
    expect 0 who m.km --json
    same "true 0" "$(json '"\(.read_only_handles) \(.users | length)"')"
    expect 0 who m.km
    [[ $output == *"nobody has it open for writing"*"at least one has it open without write permission"* ]]
}

@test "who does not list the dead" {
    make_map m.km
    crash m.km write
    expect 0 who m.km --json
    same 0 "$(json '.users | length')"
}

@test "info, log, who, verify and read never change the file" {
    make_map m.km
    crash m.km commit commit
    local before verb
    before=$(checksum m.km)
    for verb in info log who verify read; do
        expect 0 "$verb" m.km
        same "$before" "$(checksum m.km)"
    done
}

@test "the reporting verbs work on a file and a directory that cannot be written" {
    need_root
    make_map m.km
    chmod 444 m.km
    cp "$KEEPMAP" tool
    chmod 755 tool
    local verb
    for verb in info log who verify read; do
        run --separate-stderr as_nobody ./tool "$verb" m.km
        same 0 "$status"
    done
    run --separate-stderr as_nobody ./tool write m.km <<<x
    same 7 "$status"
    [[ $stderr == "keepmap: write m.km: "*[Pp]"ermission"* ]]
}
