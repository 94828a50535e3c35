#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The classic pair: server and client, on a path, in the paging file, with and without --raw.

load helper

# The lines of docs/cli.md.
server_lines() {
    printf '%s\n' "The file mapping ($1) is created" "The file view is mapped" "This message is written to the view:" \
        "\"$2\"" "Press ENTER to clean up resources and quit"
}
client_lines() {
    printf '%s\n' "The file mapping ($1) is opened" "The file view is mapped" "Read from the file mapping:" \
        "\"$2\"" "Press ENTER to clean up resources and quit"
}

# waits NAME: what start NAME began has printed its last line.
waits() {
    wait_until grep -q '^Press ENTER' "$1.out"
}

default_message="Message from the first process."

# pair TARGET [--raw]: a server that stays, a client, and both end when ENTER is pressed.
pair() {
    start server server "$@" || return 1
    local server=$STARTED
    waits server || return 1
    start client client "$@"
    local client=$STARTED
    waits client || return 1
    # Lines are there as soon as they are printed, and neither ends by itself.
    server_lines "$1" "$default_message" | diff - server.out || return 1
    client_lines "$1" "$default_message" | diff - client.out || return 1
    ! is_over "$server" && ! is_over "$client" || return 1
    press client
    ended 0 "$client" || return 1
    ! is_over "$server" || return 1
    press server
    ended 0 "$server" || return 1
    same "" "$(cat server.err client.err)"
}

@test "the pair says its lines on a path, and both wait for ENTER" {
    pair pair.km
    expect 0 verify pair.km
    same 1 "$(keepmap info pair.km --json | jq .generation)"
}

@test "the pair says its lines on Local\\NAME, which ends with the last of them" {
    pair 'Local\SampleMap'
    refused 3 "" info 'Local\SampleMap'
}

@test "the pair says its lines on Global\\NAME" {
    pair 'Global\SampleMap'
    refused 3 "" info 'Global\SampleMap'
}

@test "the pair says its lines with --raw, on a path and in the paging file" {
    pair pair.raw --raw
    same 65536 "$(stat -c %s pair.raw)"
    rm client.* server.*
    pair 'Local\SampleMap' --raw
}

@test "a client keeps the object alive when its server has ended" {
    start server server 'Local\SampleMap'
    local server=$STARTED
    waits server
    start client client 'Local\SampleMap'
    waits client
    press server
    ended 0 "$server"
    expect 0 client 'Local\SampleMap'
    press client
    ended 0 "$STARTED"
    refused 3 "keepmap server" client 'Local\SampleMap'
}

@test "with standard input at its end or closed, they end at once" {
    local target
    for target in a.km 'Local\a'; do
        expect 0 server "$target"
        same "$(server_lines "$target" "$default_message")" "$output"
        run --separate-stderr bash -c '"$0" server "$1" <&-' "$KEEPMAP" "$target"
        same 0 "$status"
        same "$(server_lines "$target" "$default_message")" "$output"
        run --separate-stderr bash -c '"$0" server "$1" --raw <&-' "$KEEPMAP" "${target/a/r}"
        same 0 "$status"
    done
    expect 0 client a.km
    same "$(client_lines a.km "$default_message")" "$output"
    run --separate-stderr bash -c '"$0" client a.km <&-' "$KEEPMAP"
    same 0 "$status"
    same "$(client_lines a.km "$default_message")" "$output"
}

@test "end of input in the middle of a line is the end, and more than a line is left alone" {
    keepmap server a.km </dev/null >/dev/null
    run --separate-stderr bash -c 'printf x | "$0" client a.km' "$KEEPMAP"
    same 0 "$status"
    run --separate-stderr bash -c '{ "$0" client a.km >/dev/null; cat; } <<<$'\''\nrest'\''' "$KEEPMAP"
    same rest "$output"
}

@test "a second server is refused while the first one runs" {
    local target words
    for target in a.km 'Local\a' 'Global\a' "a.raw --raw" "Local\\r --raw"; do
        read -ra words <<<"$target"
        rm -f server.*
        start server server "${words[@]}" --message first
        waits server
        refused 4 "" server "${words[@]}" --message second
        expect 0 client "${words[@]}"
        same "$(client_lines "${words[0]}" first)" "$output"
        press server
        ended 0 "$STARTED"
        expect 0 server "${words[@]}" --message second
        same "$(server_lines "${words[0]}" second)" "$output"
    done
    expect 0 client a.km
    same "$(client_lines a.km second)" "$output"
    expect 0 client a.raw --raw
    same "$(client_lines a.raw second)" "$output"
}

@test "a server is refused where a client is still at its file" {
    keepmap server a.km </dev/null >/dev/null
    start client client a.km
    waits client
    refused 4 "" server a.km
    keepmap server a.raw --raw </dev/null >/dev/null
    start raw client a.raw --raw
    waits raw
    refused 4 "others have it open" server a.raw --raw
}

@test "a map that no server made keeps its data" {
    make_map m.km
    make_map s.km --schema counter:1
    local before
    before=$(checksum m.km)
    refused 4 "no server made" server m.km
    refused 4 "no server made" server s.km
    same "$before" "$(checksum m.km)"
    # Whoever names its schema means it.
    expect 0 server s.km --schema counter:1
    expect 0 client s.km --schema counter:1
    refused 6 "" client s.km --schema message:1
    printf 'no map' >text
    refused 5 "" server text
    same "no map" "$(cat text)"
}

@test "a raw server takes a file of exactly 65536 bytes, and no other" {
    noise 65536 >right
    noise 65535 >short
    noise 65537 >long
    : >empty
    make_map m.km
    local before
    before=$(checksum m.km)
    refused 4 "65535 bytes long, not 65536" server short --raw
    refused 4 "65537 bytes long, not 65536" server long --raw
    refused 5 "empty" server empty --raw
    refused 2 "keepmap map" server m.km --raw
    same "$before" "$(checksum m.km)"
    expect 0 server right --raw --message ab
    # What is not the message stays as it is.
    cmp <(noise 65536 | tail -c +7) <(tail -c +7 right)
    same " a \0 b \0 \0 \0" "$(od -An -c -N 6 right | tr -s ' ')"
}

@test "the message of a raw server is UTF-16LE at the start of the section" {
    start server server 'Local\w' --raw --message 'Grüße, 世界 𝄞'
    waits server
    keepmap info 'Local\w' --raw --json | jq -e '.size == 65536'
    keepmap read 'Local\w' --raw >section
    printf 'Grüße, 世界 𝄞\0' | iconv -f UTF-8 -t UTF-16LE >wanted
    cmp -n "$(stat -c %s wanted)" wanted section
    same "" "$(tail -c "+$(($(stat -c %s wanted) + 1))" section | tr -d '\0')"
}

@test "a raw client reads what another program wrote" {
    printf 'von anderswo: ß 𝄞' | iconv -f UTF-8 -t UTF-16LE >foreign
    truncate -s 65536 foreign
    expect 0 client foreign --raw
    same "$(client_lines foreign 'von anderswo: ß 𝄞')" "$output"
    # A section of another size, too, and one that ends without a NUL.
    printf 'ab' | iconv -f UTF-8 -t UTF-16LE >tiny
    expect 0 client tiny --raw
    same "$(client_lines tiny ab)" "$output"
    printf 'a\0b\0c' >odd
    expect 0 client odd --raw
    same "$(client_lines odd ab)" "$output"
}

@test "a message without an end, halves of characters and control characters are shown safely" {
    head -c 65536 /dev/zero | tr '\0' a >endless
    expect 0 client endless --raw
    same 5 "$(wc -l <<<"$output")"
    same "$(printf '慡%.0s' {1..32768})" "$(sed -n 's/^"\(.*\)"$/\1/p' <<<"$output")"
    # a, first half, b, second half, second half first half, ESC, newline, U+009B, c
    printf 'a\0\x00\xd8b\0\x00\xdc\x01\xdc\x01\xd8\x1b\0\n\0\x9b\0c\0\0\0' >broken
    expect 0 client broken --raw
    same "$(client_lines broken $'a\xef\xbf\xbdb\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd????c')" "$output"
    keepmap create bytes.km --size 64K --quiet
    printf 'a\xffb\xc3(\x1b[31m\xed\xa0\x80\xc3\xa9' | keepmap write bytes.km --quiet
    expect 0 client bytes.km
    same "$(client_lines bytes.km $'a\xef\xbf\xbdb\xef\xbf\xbd(?[31m\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9')" "$output"
    # A map that is full to its end.
    head -c 65536 /dev/zero | tr '\0' b | keepmap write bytes.km --quiet
    expect 0 client bytes.km
    same "$(head -c 65536 /dev/zero | tr '\0' b)" "$(sed -n 's/^"\(.*\)"$/\1/p' <<<"$output")"
}

@test "messages go through as they are, as long as they fit" {
    local message long
    for message in x 'Grüße aus Köln' '"quoted" \ %s %n' $'tab\there'; do
        keepmap server a.km --message "$message" </dev/null >/dev/null
        expect 0 client a.km
        same "$(client_lines a.km "${message/$'\t'/?}")" "$output"
        same "$message" "$(keepmap read a.km | tr -d '\0')"
    done
    long=$(head -c 65535 /dev/zero | tr '\0' x)
    expect 0 server a.km --message "$long"
    expect 0 client a.km
    same "\"$long\"" "$(sed -n 4p <<<"$output")"
    refused 2 "longer than the 65535 bytes" server b.km --message "x$long"
    long=$(head -c 32767 /dev/zero | tr '\0' x)
    expect 0 server a.raw --raw --message "$long"
    expect 0 client a.raw --raw
    same "\"$long\"" "$(sed -n 4p <<<"$output")"
    refused 2 "longer than the 32767 units" server b.raw --raw --message "x$long"
    # Beyond the first 65536 characters each takes two units.
    refused 2 "longer than the 32767 units" server b.raw --raw --message "$(head -c 16384 /dev/zero | sed 's/\x0/𝄞/g')"
    expect 0 server a.raw --raw --message "$(head -c 16383 /dev/zero | sed 's/\x0/𝄞/g')"
    refused 2 "is empty" server b.km --message ""
    refused 2 "is not UTF-8" server b.km --message $'a\xff'
    refused 2 "is not UTF-8" server b.km --raw --message $'\xed\xa0\x80'
    [ ! -e b.km ] && [ ! -e b.raw ]
}

@test "a client without a server says how to get one" {
    local target
    for target in a.km 'Local\a' 'Global\a'; do
        refused 3 "start 'keepmap server' for it first, or use --wait" client "$target"
        refused 3 "start 'keepmap server' for it first, or use --wait" client "$target" --raw
        refused 3 "no server came" client "$target" --wait --timeout 0.2
    done
    [ -z "$(ls -A "$DIR")" ]
}

@test "a client that comes first waits with --wait" {
    local target words
    for target in a.km 'Local\a' 'Global\a' "a.raw --raw" "Local\\r --raw"; do
        read -ra words <<<"$target"
        rm -f server.* client.*
        start client client "${words[@]}" --wait
        local client=$STARTED
        # It has looked at least once, and found nothing.
        sleep 0.1
        same "" "$(cat client.out)"
        start server server "${words[@]}" --message "for ${words[0]//\\//}"
        waits client
        client_lines "${words[0]}" "for ${words[0]//\\//}" | diff - client.out
        press client
        press server
        ended 0 "$client"
        ended 0 "$STARTED"
    done
}

@test "a client waits for the message in a map that has none yet" {
    start creator create 'Local\a' --size 64K --quiet
    wait_until eval 'keepmap info "Local\a" >/dev/null 2>&1'
    refused 1 "no message" client 'Local\a' --timeout 0.2
    refused 1 "no message" client 'Local\a' --wait --timeout 0.2
    start client client 'Local\a'
    wait_until eval 'keepmap info "Local\a" --json | jq -e .read_only_handles'
    same "" "$(cat client.out)"
    printf late | keepmap write 'Local\a' --quiet
    waits client
    client_lines 'Local\a' late | diff - client.out
    # A commit without a message in it, which a server never makes, is none.
    expect 0 create grown.km --size 4K
    expect 0 grow grown.km 8K
    refused 1 "no message" client grown.km --timeout 0.2
    start grown client grown.km
    wait_until eval 'keepmap info grown.km --json | jq -e .read_only_handles'
    printf late | keepmap write grown.km --offset 100 --quiet
    printf late | keepmap write grown.km --quiet
    waits grown
    client_lines grown.km late | diff - grown.out
    head -c 65536 /dev/zero >zeros
    refused 1 "no message" client zeros --raw --timeout 0.2
    start raw client zeros --raw
    wait_until eval 'keepmap info zeros --raw --json | jq -e .read_only_handles'
    printf 'l\0a\0t\0e\0\0\0' | keepmap write zeros --raw --quiet
    waits raw
    client_lines zeros late | sed 's/late/l.*/' >patterns
    # Raw stores are seen one by one, so perhaps not all of the message is there.
    grep -qxf <(sed -n 4p patterns) raw.out
}

@test "a killed server leaves a file that the next one takes, and no object" {
    start server server a.km --message killed
    waits server
    kill -KILL "$STARTED"
    wait "$STARTED" || true
    expect 0 client a.km
    same "$(client_lines a.km killed)" "$output"
    expect 0 server a.km --message next
    expect 0 client a.km
    same "$(client_lines a.km next)" "$output"
    local options
    for options in "" --raw; do
        rm -f server.*
        # shellcheck disable=SC2086
        start server server 'Local\a' $options --message killed
        waits server
        kill -KILL "$STARTED"
        wait "$STARTED" || true
        # shellcheck disable=SC2086
        refused 3 "keepmap server" client 'Local\a' $options
        # shellcheck disable=SC2086
        expect 0 server 'Local\a' $options --message next
    done
    same "" "$(find "$KEEPMAP_SHM" -type f)"
}

@test "signals just end them" {
    # A shell starts its background jobs deaf to INT; ordinary ones are not.
    printf '#!/bin/sh\nexec env --default-signal=INT "%s" "$@"\n' "$KEEPMAP" >tool
    chmod +x tool
    env --default-signal=INT true || skip "env cannot set signals here"
    local signal target KEEPMAP=$DIR/tool
    for signal in INT TERM HUP; do
        for target in a.km 'Local\a'; do
            rm -f server.* client.*
            start server server "$target"
            local server=$STARTED
            waits server
            start client client "$target"
            waits client
            kill -s "$signal" "$server" "$STARTED"
            ended $((128 + $(kill -l "$signal"))) "$server"
            ended $((128 + $(kill -l "$signal"))) "$STARTED"
        done
    done
    expect 0 list
    same "no maps are backed by the paging file now" "$output"
}

@test "two ordinary terminals" {
    script -qec true /dev/null </dev/null >/dev/null 2>&1 || skip "script(1) is not there, or can make no terminal"
    local side
    for side in server client; do
        mkfifo $side.in
        exec {input}<>$side.in
        script -qefc "'$KEEPMAP' $side 'Local\\SampleMap'" /dev/null <$side.in >$side.out 2>&1 3>&- {input}>&- &
        PIDS+=("$!")
        waits $side
    done
    # The terminal gives back what is typed.
    server_lines 'Local\SampleMap' "$default_message" | diff - <(tr -d '\r' <server.out)
    client_lines 'Local\SampleMap' "$default_message" | diff - <(tr -d '\r' <client.out)
    press client
    ended 0 "${PIDS[1]}"
    press server
    ended 0 "${PIDS[0]}"
}

@test "nobody reads the lines: the status tells, and the server still waits" {
    [ -c /dev/full ] || skip "no /dev/full"
    mkfifo in
    exec {input}<>in
    "$KEEPMAP" server 'Local\a' <in >/dev/full 2>errors 3>&- {input}>&- &
    PIDS+=("$!")
    wait_until eval 'keepmap client "Local\a" </dev/null >client.out 2>/dev/null'
    client_lines 'Local\a' "$default_message" | diff - client.out
    echo >in
    ended 7 "${PIDS[0]}"
    [[ $(cat errors) == "keepmap: cannot write standard output: No space left on device: "* ]]
}

@test "the pair takes no options that make no sense for it" {
    refused 2 "unknown option '--json'" server a.km --json
    refused 2 "unknown option '--json'" client a.km --json
    refused 2 "unknown option '--wait'" server a.km --wait
    refused 2 "unknown option '--live'" server a.km --live
    refused 2 "unknown option '--message'" client a.km --message x
    [ -z "$(ls -A "$DIR")" ]
}
