#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Words: help, versions, verbs, options, sizes, targets; and the standard streams.

load helper

@test "without a verb it prints its help as an error" {
    expect 2
    same "" "$output"
    [[ $stderr == *"Usage: keepmap VERB TARGET"* ]]
}

@test "--help lists exactly the verbs that work" {
    expect 0 --help
    same "checkpoint client copy create grow info list log read server sync verify watch who write " \
        "$(sed -n 's/^  \([a-z]*\)  .*/\1/p' <<<"$output" | sort | tr '\n' ' ')"
    expect 0 help
    [[ $output == *"Usage: keepmap VERB TARGET"* ]]
}

@test "each verb's help has usage, options, an example and exit statuses" {
    local verb
    for verb in create info read write verify log who watch list sync checkpoint grow copy server client; do
        expect 0 "$verb" --help
        local first=$output
        if [ "$verb" = list ]; then
            [[ $first == "Usage: keepmap list [options]"* && $first != *--timeout* && $first != *--raw* ]]
        else
            [[ $first == "Usage: keepmap $verb TARGET"* && $first == *"--timeout SECONDS"* && $first == *--raw* ]]
        fi
        [[ $first == *"Options:"*"--help"*"Example:"*"keepmap $verb"*"Exit status:"*"0  done"* ]]
        expect 0 help "$verb"
        same "$first" "$output"
        expect 0 "$verb" -h
        same "$first" "$output"
        # No line is wider than a terminal has columns.
        [ "$(awk 'length > 110' <<<"$first")" = "" ]
    done
}

@test "--version tells the versions of the tool and of the library" {
    expect 0 --version
    [[ $output =~ ^keepmap\ [0-9]+\.[0-9]+\.[0-9]+\ \(library\ [0-9]+\.[0-9]+\.[0-9]+\)$ ]]
}

@test "a mistyped verb gets a suggestion" {
    refused 2 "did you mean 'create'?" craete m.km
    refused 2 "did you mean 'verify'?" verfy m.km
    refused 2 "did you mean 'checkpoint'?" check m.km
    refused 2 "did you mean 'grow'?" help gorw
    refused 2 "there is no verb 'elephant'" elephant m.km
    [[ $stderr != *"did you mean"* ]]
}

@test "options before the verb are explained" {
    refused 2 "the verb comes first" --json info m.km
}

@test "a mistyped option gets a suggestion and the way to the help" {
    refused 2 "unknown option '--sise': did you mean '--size'?" create m.km --sise 1M
    [[ $stderr == *"see 'keepmap create --help'" ]]
    refused 2 "unknown option '--elephant'" info m.km --elephant
    refused 2 "unknown option '-x'" info m.km -x
    refused 2 "--size needs a value" create m.km --size
    refused 2 "--json takes no value" info m.km --json=yes
    refused 2 "unknown option '--json'" read m.km --json
}

@test "the number of arguments is checked" {
    refused 2 "which map?" info
    refused 2 "'b.km' is one word too many" info a.km b.km
    refused 2 "it takes TARGET SIZE" grow a.km
    refused 2 "is empty" info ""
    refused 2 "a map cannot be a standard stream" info -
}

@test "list takes no target, and only the options that it has a use for" {
    refused 2 "'m.km' is one word too many: it takes no target" list m.km
    local option
    for option in --raw --timeout=1 --schema=a:1 --any-filesystem; do
        refused 2 "unknown option" list "$option"
    done
    expect 0 list --json
    same "[]" "$(jq -c .maps <<<"$output")"
}

@test "names of maps backed by the paging file are checked by every verb" {
    local verb
    for verb in info read write verify log who watch sync checkpoint server client; do
        refused 2 "Local?NAME, with these capitals" "$verb" 'local\x'
        refused 2 "Global?NAME, with these capitals" "$verb" 'GLOBAL\x'
        refused 2 "no name behind the backslash" "$verb" 'Local\'
        refused 2 "has a '/' in it" "$verb" 'Local\a/b'
        refused 2 "has a '?' in it" "$verb" 'Global\a\b'
        refused 2 "means a directory" "$verb" 'Local\..'
        refused 2 "control character" "$verb" $'Local\\a\nb'
        refused 2 "not valid UTF-8" "$verb" $'Local\\\xff'
        refused 2 "201 bytes" "$verb" "Local\\$(printf '%0201d' 0)"
    done
    refused 2 "Local?NAME, with these capitals" create 'LOCAL\x' --size 1M
    refused 2 "Local?NAME, with these capitals" grow 'LOCAL\x' 1M
    refused 2 "Local?NAME, with these capitals" copy 'LOCAL\x' copy.km
    [ -z "$(ls -A "$DIR" "$KEEPMAP_SHM" | grep -v :)" ]
}

@test "a map backed by the paging file that is not there is refused by name" {
    local verb
    for verb in info read write verify log who watch sync checkpoint client; do
        refused 3 "there is no such object" "$verb" 'Local\SampleMap'
        refused 3 "there is no such object" "$verb" 'Global\SampleMap'
        refused 3 "there is no such object" "$verb" 'Local\SampleMap' --raw
    done
    refused 3 "there is no such object" grow 'Global\SampleMap' 1M
    refused 3 "there is no such object" copy 'Local\SampleMap' copy.km
    [ -z "$(ls -A "$DIR")" ]
    expect 0 list
    same "no maps are backed by the paging file now" "$output"
}

@test "a file whose path looks like a name is reached by its directory" {
    keepmap create './Local\x' --size 64K --quiet
    [ -f 'Local\x' ]
    refused 3 "there is no such object" info 'Local\x'
    expect 0 info './Local\x' --json
    same false "$(jq .paging_file <<<"$output")"
}

@test "--raw and --schema exclude each other" {
    make_map m.km
    refused 2 "--schema with --raw" info m.km --raw --schema a:1
}

@test "sizes that are none are refused" {
    local size
    for size in "" x 12X 1.5M -5 +5 " 5" "5 " 0x10 1MM 1KB M 1e6; do
        refused 2 "is not a size" create m.km "--size=$size"
    done
    for size in 18446744073709551616 99999999999999999999999 16777216T 17179869184G 18014398509481984K; do
        refused 2 "more than 64 bits" create m.km --size "$size"
    done
    refused 2 "at least 1 byte" create m.km --size 0
    refused 2 "at least 1 byte" create m.km --size 1M --journal 0
    refused 2 "at least 1 byte" create m.km --size 1M --max-size 0
    refused 2 "--size is missing" create m.km
    refused 2 "--max-size is less than --size" create m.km --size 2M --max-size 1M
    refused 2 "is not a size" grow m.km 12X
    refused 2 "is not a size" read m.km --offset x
    refused 2 "is not a size" read m.km --length x
    refused 2 "is not a size" write m.km --offset x
    [ -z "$(ls -A "$DIR")" ]
}

@test "sizes take K, M, G and T, in either case" {
    local pair
    for pair in 1:1 1000:1000 4K:4096 4k:4096 1M:1048576 1m:1048576; do
        keepmap create m.km --size "${pair%:*}" --quiet --force
        expect 0 info m.km --json
        same "${pair#*:}" "$(json .size)"
    done
    keepmap create big.km --size 4K --max-size 1G --quiet
    expect 0 info big.km --json
    same 1073741824 "$(json .max_size)"
    keepmap create huge.km --size 4K --max-size 1T --quiet
    expect 0 info huge.km --json
    same 1099511627776 "$(json .max_size)"
}

@test "other values that are none are refused" {
    refused 2 "is not a kind: give crc32c, crc32 or none" create m.km --size 1M --checksum md5
    local mode
    for mode in x 8 rw 1000 0 0400 "" -1 06000; do
        refused 2 "is not a set of permissions" create m.km --size 1M "--permissions=$mode"
    done
    local schema
    for schema in x x: :1 x:y x:-1 "" x:1.5; do
        refused 2 "is not a schema" create m.km --size 1M "--schema=$schema"
        refused 2 "is not a schema" info m.km "--schema=$schema"
    done
    refused 2 "above 4294967295" create m.km --size 1M --schema x:4294967296
    refused 2 "longer than 63 bytes" create m.km --size 1M --schema "$(printf '%064d' 0):1"
    local seconds
    for seconds in x -1 1s "" . 1. 1e3; do
        refused 2 "is not a time in seconds" info m.km "--timeout=$seconds"
    done
    refused 2 "is too long" info m.km --timeout 4000001
    refused 2 "is not a count" log m.km --limit x
    [ -z "$(ls -A "$DIR")" ]
}

@test "options may stand before or after the target, and -- ends them" {
    make_map m.km
    expect 0 info --json m.km
    same m.km "$(json .target)"
    cp m.km ./-x.km
    expect 0 info --json -- -x.km
    same -x.km "$(json .target)"
}

@test "a full disk behind standard output is noticed" {
    make_map m.km
    [ -c /dev/full ] || skip "no /dev/full"
    local verb
    for verb in info log who verify read client; do
        run --separate-stderr bash -c '"$0" "$@" </dev/null >/dev/full' "$KEEPMAP" "$verb" m.km
        same 7 "$status"
        [[ $stderr == "keepmap: cannot write standard output: No space left on device: "* ]]
    done
    run --separate-stderr bash -c '"$0" list >/dev/full' "$KEEPMAP"
    same 7 "$status"
    run bash -c '"$0" --help >/dev/full' "$KEEPMAP"
    same 7 "$status"
}

@test "a reader of standard output who goes away ends it quietly" {
    make_map m.km --size 4M
    run bash -c '"$0" read m.km 2>error.txt | head -c 10 >/dev/null; echo "${PIPESTATUS[0]}"' "$KEEPMAP"
    same 7 "$output"
    same "" "$(cat error.txt)"
    expect 0 verify m.km
}

@test "closed standard streams are errors and never reach the map" {
    make_map m.km
    local before
    before=$(checksum m.km)
    run bash -c '"$0" info m.km >&-' "$KEEPMAP"
    same 7 "$status"
    run bash -c '"$0" read m.km >&-' "$KEEPMAP"
    same 7 "$status"
    run bash -c '"$0" read m.km --offset 1G 2>&-' "$KEEPMAP"
    same 2 "$status"
    same "$before" "$(checksum m.km)"
    run bash -c '"$0" write m.km <&-' "$KEEPMAP"
    same 7 "$status"
    [[ $output == *"cannot read standard input"* ]]
    same 1 "$(keepmap info m.km --json | jq .generation)"
    run bash -c '"$0" write m.km <&- >&- 2>&-' "$KEEPMAP"
    same 7 "$status"
    expect 0 verify m.km
}

@test "standard output must not be the map itself" {
    make_map m.km
    local before verb
    before=$(checksum m.km)
    for verb in info read verify log who watch sync checkpoint client; do
        run bash -c '"$0" "$1" m.km >>m.km' "$KEEPMAP" "$verb"
        same 2 "$status"
        [[ $output == *"standard output goes into the map itself"* ]]
    done
    same "$before" "$(checksum m.km)"
}

@test "any bytes in a path give valid JSON and a harmless message" {
    local name=$'a\xff\xc3\xa9"\\\n\t\x1b[31m\xed\xa0\x80.km'
    make_map "$name"
    expect 0 info "$name" --json
    same $'a\xef\xbf\xbd\xc3\xa9"\\\n\t\x1b[31m\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd.km' "$(json .target)"
    [[ $output != *$'\x1b'* ]]
    expect 0 info "$name"
    [[ $output != *$'\x1b'* ]]
    refused 3 "?[31m" info "x$name"
    [[ $stderr != *$'\x1b'* ]]
}

@test "a progress bar appears on a terminal after a second, and takes itself away" {
    script -qec true /dev/null </dev/null >/dev/null 2>&1 || skip "script(1) is not there, or can make no terminal"
    make_map m.km --size 4M
    local blank
    blank=$'\r'$(printf '%78s' '')$'\r'
    # The second starts once the tool is at work: more was written than a pipe holds, or something was read from it.
    cat >slow-input <<END
#!/bin/sh
{ head -c 256K /dev/zero; sleep 1.1; head -c 4K /dev/zero; } | "$KEEPMAP" write m.km "\$@"
END
    cat >slow-output <<END
#!/bin/sh
"$KEEPMAP" read m.km "\$@" | { head -c 1; sleep 1.1; cat; } >/dev/null
END
    chmod +x slow-input slow-output
    run env TERM=xterm script -qec ./slow-input /dev/null </dev/null
    [[ $output == *$'\r'"write 260 KiB"*"$blank"* ]]
    run env TERM=xterm script -qec ./slow-output /dev/null </dev/null
    [[ $output == *$'\r'"read ["$'\e[32m'*"of 4 MiB"*"$blank" ]]
    run env TERM=xterm NO_COLOR=1 script -qec ./slow-output /dev/null </dev/null
    [[ $output == *$'\r'"read [#"*"of 4 MiB"*"$blank" && $output != *$'\e'* ]]
    run env TERM=dumb script -qec ./slow-output /dev/null </dev/null
    [[ $output == *$'\r'"read [#"*"of 4 MiB"*"$blank" && $output != *$'\e'* ]]
    # Neither when it is not wanted nor when nobody looks.
    run env TERM=xterm script -qec './slow-output --quiet' /dev/null </dev/null
    same "" "$output"
    run bash -c './slow-output 2>error.txt'
    same "" "$(cat error.txt)"
}
