#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# watch: a line for each commit.

load helper

# has_lines FILE COUNT
has_lines() {
    [ "$(wc -l <"$1")" -ge "$2" ]
}

# commits FILE COUNT: that many commits, one after the other.
commits() {
    local i
    for ((i = 0; i < $2; i++)); do
        # No two in a row are equal, whoever makes them: an equal one would be no commit.
        printf '%s' "$BASHPID $i" | keepmap write "$1" --quiet
    done
}

@test "watch tells a line for each commit as it comes, and ends after --count of them" {
    make_map m.km
    start watcher watch m.km --count 3
    wait_until eval 'keepmap info m.km --json | jq -e .read_only_handles'
    printf 'one' | keepmap write m.km --quiet --offset 4K
    wait_until has_lines watcher.out 1
    [[ $(cat watcher.out) =~ ^generation\ 2\ \ 20[0-9]{2}-[0-9T:.+-]+\ \ process\ [0-9]+\ \ 3\ bytes\ in\ 1\ page$ ]]
    ! is_over "$STARTED"
    commits m.km 2
    ended 0 "$STARTED"
    same "2 3 4" "$(awk '{ print $2 }' watcher.out | xargs)"
    same "" "$(cat watcher.err)"
}

@test "watch --since begins after that commit, --json has a line with every documented field" {
    make_map m.km
    commits m.km 3
    expect 0 watch m.km --since 1 --count 3 --json
    same 3 "$(wc -l <<<"$output")"
    same "2 3 4" "$(jq -s -r 'map(.generation) | join(" ")' <<<"$output")"
    same "2 3 4" "$(jq -s -r 'map(.first_generation) | join(" ")' <<<"$output")"
    # The same as log tells, and nothing that is not documented.
    diff <(jq -c 'del(.target, .first_generation)' <<<"$output") \
        <(keepmap log m.km --json | jq -c '.commits[] | select(.generation > 1)')
    { sed -n '/^### watch as JSON/,/^## /s/^| `\([a-z_]*\)` .*/\1/p' "$TOP/docs/cli.md"
      sed -n '/^### log as JSON/,/^## /s/^| `\([a-z_]*\)` .*/\1/p' "$TOP/docs/cli.md" | grep -vE '^(target|commits|generation)$'
    } | sort >documented
    head -n 1 <<<"$output" | jq -r 'keys[]' | sort | diff documented -
    # --count ends it before the last one.
    expect 0 watch m.km --since 0 --count 2
    same 2 "$(wc -l <<<"$output")"
}

@test "watch ends with status 1 when no commit comes for --timeout" {
    make_map m.km
    expect 1 watch m.km --timeout 0.2
    same "" "$output"
    [[ $stderr == "keepmap: watch m.km: "*"none after 1 came"* ]]
    expect 1 watch m.km --timeout 0.2 --since 0
    same 1 "$(wc -l <<<"$output")"
    expect 1 watch m.km --timeout 0 --since 1
    same "" "$output"
}

@test "commits that are no longer in the journal are told as a range, every one once" {
    make_map m.km --size 4M --journal 1M
    noise 300000 >a
    noise 300001 | tail -c 300000 >b
    local i
    for i in 1 2 3 4 5 6; do
        keepmap write m.km --quiet <a
        keepmap write m.km --quiet <b
    done
    expect 1 watch m.km --since 0 --timeout 0.2
    [[ $(head -n 1 <<<"$output") =~ ^generations\ 1\ to\ ([0-9]+):\ no\ longer\ in\ the\ journal$ ]]
    local last=${BASH_REMATCH[1]}
    same "$(seq $((last + 1)) 13 | xargs)" "$(tail -n +2 <<<"$output" | awk '{ print $2 }' | xargs)"
    expect 1 watch m.km --since 0 --timeout 0.2 --json
    same "$(seq 13 | xargs)" "$(jq -r 'range(.first_generation; .generation + 1)' <<<"$output" | xargs)"
    same "1 $last" "$(head -n 1 <<<"$output" | jq -r '"\(.first_generation) \(.generation)"')"
    # A range counts as the commits that it stands for.
    expect 0 watch m.km --since 0 --count 2
    same 1 "$(wc -l <<<"$output")"
}

@test "watch tells every commit of many writers once, in order" {
    make_map m.km --size 1M
    start watcher watch m.km --count 60 --json
    wait_until eval 'keepmap info m.km --json | jq -e .read_only_handles'
    local i writers=()
    for i in 1 2 3; do
        commits m.km 20 3>&- &
        writers+=("$!")
    done
    wait "${writers[@]}"
    ended 0 "$STARTED"
    same "$(seq 2 61 | xargs)" "$(jq -r 'range(.first_generation; .generation + 1)' watcher.out | xargs)"
}

@test "watch of a live map tells generations" {
    make_map m.km --live
    start watcher watch m.km --count 2
    wait_until eval 'keepmap info m.km --json | jq -e .read_only_handles'
    commits m.km 1
    wait_until has_lines watcher.out 1
    same "generation 2" "$(cat watcher.out)"
    commits m.km 1
    ended 0 "$STARTED"
    same "generation 3" "$(tail -n 1 watcher.out)"
    expect 0 watch m.km --since 0 --count 1
    same "generations 1 to 3" "$output"
    expect 0 watch m.km --since 1 --count 1 --json
    same '{"target": "m.km", "first_generation": 2, "generation": 3}' "$output"
}

@test "watch works on objects, and keeps them alive" {
    start maker create 'Local\a' --size 64K --quiet
    local maker=$STARTED
    wait_until eval 'keepmap info "Local\a" >/dev/null 2>&1'
    start watcher watch 'Local\a' --count 1
    wait_until eval 'keepmap info "Local\a" --json | jq -e .read_only_handles'
    press maker
    ended 0 "$maker"
    commits 'Local\a' 1
    ended 0 "$STARTED"
    [[ $(cat watcher.out) == "generation 1 "* ]]
    same "" "$(find "$KEEPMAP_SHM" -type f)"
}

@test "watch ends at the next line when its reader is gone" {
    make_map m.km
    mkfifo pipe
    "$KEEPMAP" watch m.km >pipe 2>errors 3>&- &
    PIDS+=("$!")
    exec 8<pipe
    wait_until eval 'keepmap info m.km --json | jq -e .read_only_handles'
    commits m.km 1
    head -n 1 <&8 >/dev/null
    exec 8<&-
    commits m.km 1
    ended 7 "${PIDS[0]}"
    same "" "$(cat errors)"
}

@test "watch says that the map was replaced or removed" {
    make_map m.km
    start watcher watch m.km
    wait_until eval 'keepmap info m.km --json | jq -e .read_only_handles'
    refused 4 "" create m.km --size 64K --force
    rm m.km
    make_map m.km
    ended 7 "$STARTED"
    [[ $(cat watcher.err) == "keepmap: watch m.km: "* ]]
}

@test "the numbers that watch takes are checked" {
    make_map m.km
    refused 2 "is not a count" watch m.km --count x
    refused 2 "no commit at all" watch m.km --count 0
    refused 2 "is not a count" watch m.km --since -1
    refused 2 "is not a time in seconds" watch m.km --timeout x
}
