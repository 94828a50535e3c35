#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# A file that is cut short while a verb uses it: an error with a sentence, never a signal, and nothing that was lost is told
# as if it were data.

load helper

# options KIND, and raw KIND for the verbs that are not create.
options() {
    case $1 in
    live) echo --live ;;
    raw) echo --raw ;;
    esac
}
raw() {
    [ "$1" != raw ] || echo --raw
}

# full_map FILE KIND SIZE: one whose bytes are all 'x'.
full_map() {
    # shellcheck disable=SC2046
    keepmap create "$1" --size "$3" --quiet $(options "$2")
    # shellcheck disable=SC2046
    head -c "$(numfmt --from=iec "$3")" /dev/zero | tr '\0' x | keepmap write "$1" --quiet $(raw "$2")
}

# data_at FILE KIND: where the data begins in the file.
data_at() {
    if [ "$2" = raw ]; then
        echo 0
    else
        od -An -tu8 -j176 -N8 "$1" | tr -d ' '
    fi
}

# attached FILE KIND: how many have it open, with write permission or without.
attached() {
    # shellcheck disable=SC2046
    keepmap info "$1" --json $(raw "$2") | jq -e ".handles > 0 or .read_only_handles" >/dev/null
}

# one_error FILE VERB: it holds one line of the usual form.
one_error() {
    [[ $(cat "$1") == "keepmap: $2 "*": "* && $(wc -l <"$1") == 1 ]] || {
        printf 'not an error in the usual form: %s\n' "$(cat "$1")" >&2
        return 1
    }
}

@test "read: the data is cut away behind what was written out" {
    local kind result
    for kind in transactional live raw; do
        full_map m.$kind $kind 4M
        mkfifo pipe
        # shellcheck disable=SC2046
        "$KEEPMAP" read m.$kind $(raw $kind) >pipe 2>errors 3>&- &
        exec 8<pipe
        wait_until attached m.$kind $kind
        head -c 1 <&8 >got
        truncate -s $(($(data_at m.$kind $kind) + 200000)) m.$kind
        cat <&8 >>got
        exec 8<&-
        result=0
        wait $! || result=$?
        same 7 "$result"
        one_error errors read
        [[ $(cat errors) == *"cut short"* ]]
        rm pipe
    done
}

@test "read: the file ends within a page now, which is no fault, but zeros" {
    local kind result end
    for kind in live raw; do
        full_map m.$kind $kind 4M
        mkfifo pipe
        # shellcheck disable=SC2046
        "$KEEPMAP" read m.$kind $(raw $kind) >pipe 2>errors 3>&- &
        exec 8<pipe
        wait_until attached m.$kind $kind
        end=$(($(data_at m.$kind $kind) + 4194304 - 100))
        head -c 1 <&8 >/dev/null
        truncate -s $end m.$kind
        cat <&8 >got
        exec 8<&-
        result=0
        wait $! || result=$?
        # What is missing may have been read before it was cut away; zeros are never told as data.
        [ "$(tr -d x <got | wc -c)" = 0 ] || same 7 "$result"
        if [ "$result" != 0 ]; then
            one_error errors read
        fi
        rm pipe
    done
}

@test "write: the map is cut away before the input has ended" {
    local kind length
    for kind in transactional live raw; do
        for length in 0 100000; do
            rm -f m.$kind writer.*
            full_map m.$kind $kind 4M
            mkfifo pipe
            # shellcheck disable=SC2046
            "$KEEPMAP" write m.$kind $(raw $kind) <pipe >out 2>errors 3>&- &
            PIDS+=("$!")
            exec 8>pipe
            head -c 100000 /dev/zero >&8
            wait_until attached m.$kind $kind
            truncate -s $((length == 0 ? 0 : $(data_at m.$kind $kind) + length)) m.$kind
            { head -c 4000000 /dev/zero >&8; } 2>/dev/null || true
            exec 8>&-
            ended 7 "${PIDS[-1]}"
            one_error errors write
            same "" "$(cat out)"
            rm pipe
        done
    done
}

@test "verify: the file is cut away while findings are read" {
    local kind data result
    for kind in transactional live; do
        full_map m.$kind $kind 24M
        data=$(data_at m.$kind $kind)
        # Enough damage that its lines do not fit into a pipe.
        head -c 24M /dev/zero | tr '\0' y | dd of=m.$kind bs=1M seek="$data" oflag=seek_bytes conv=notrunc status=none
        mkfifo pipe
        "$KEEPMAP" verify m.$kind >pipe 2>errors 3>&- &
        exec 8<pipe
        wait_until attached m.$kind $kind
        head -c 1 <&8 >/dev/null
        truncate -s $((data + 100000)) m.$kind
        cat <&8 >got
        exec 8<&-
        result=0
        wait $! || result=$?
        [ "$result" = 7 ] || [ "$result" = 5 ]
        one_error errors verify
        ! grep -q 'is sound\|is DAMAGED' got
        rm pipe
    done
}

@test "server and client: the file is cut away while they wait for ENTER" {
    local options
    for options in "" --raw; do
        rm -f server.* client.* pair
        # shellcheck disable=SC2086
        start server server pair $options
        local server=$STARTED
        wait_until grep -q '^Press ENTER' server.out
        # shellcheck disable=SC2086
        start client client pair $options
        wait_until grep -q '^Press ENTER' client.out
        : >pair
        press server
        press client
        wait_until is_over "$server"
        wait_until is_over "$STARTED"
        local result=0
        wait "$server" || result=$?
        [ "$result" -le 7 ]
        [ "$result" = 0 ] || one_error server.err server
        result=0
        wait "$STARTED" || result=$?
        [ "$result" -le 7 ]
        [ "$result" = 0 ] || one_error client.err client
    done
}

@test "client: the file is cut away while it waits for the message" {
    keepmap create m.km --size 64K --quiet
    start map client m.km
    wait_until attached m.km transactional
    : >m.km
    ended 7 "$STARTED"
    one_error map.err client
    head -c 65536 /dev/zero >m.raw
    start raw client m.raw --raw
    wait_until attached m.raw raw
    : >m.raw
    ended 7 "$STARTED"
    one_error raw.err client
}

@test "watch: the file is cut away while it waits" {
    local kind
    for kind in transactional live; do
        full_map m.$kind $kind 64K
        rm -f watcher.*
        start watcher watch m.$kind
        wait_until attached m.$kind $kind
        : >m.$kind
        ended 7 "$STARTED"
        one_error watcher.err watch
        same "" "$(cat watcher.out)"
    done
}

@test "create: the object is cut away while it waits for ENTER" {
    local kind
    for kind in transactional live raw; do
        rm -f maker.*
        # shellcheck disable=SC2046
        start maker create 'Local\a' --size 64K $(options $kind)
        wait_until grep -q 'ends when this does' maker.err
        : >"$KEEPMAP_SHM/keepmap-$(id -u)/a"
        press maker
        wait_until is_over "$STARTED"
        local result=0
        wait "$STARTED" || result=$?
        [ "$result" -le 7 ]
    done
    expect 0 list
}

@test "every verb, cut short at random moments" {
    local seed=${KEEPMAP_SEED:-$((RANDOM * 32768 + RANDOM))} round verb kind result words input
    echo "KEEPMAP_SEED=$seed" >&2
    RANDOM=$((seed % 32768))
    head -c 4M /dev/zero >input
    for kind in transactional live raw; do
        full_map full.$kind $kind 4M
        for round in 1 2 3 4 5; do
            for verb in info read write verify log who sync checkpoint grow copy client watch; do
                cp --sparse=always full.$kind m.$kind
                words=()
                case $verb in
                grow) words=(5M) ;;
                copy) words=("copy.$round") ;;
                watch) words=(--since 0 --count 1 --timeout 1) ;;
                esac
                [ $kind != raw ] || words+=(--raw)
                [ $verb = write ] && input=input || input=/dev/null
                "$KEEPMAP" $verb m.$kind "${words[@]}" <"$input" >out 2>errors 3>&- &
                PIDS+=("$!")
                sleep "0.00$((RANDOM % 10))"
                truncate -s $((RANDOM % 3 == 0 ? 0 : RANDOM * 128)) m.$kind
                wait_until is_over "${PIDS[-1]}"
                result=0
                wait "${PIDS[-1]}" || result=$?
                [ "$result" -le 7 ] || {
                    printf '%s of %s: status %s\n%s\n' "$verb" "$kind" "$result" "$(cat errors)" >&2
                    return 1
                }
                # What is told as good is good to the last byte.
                if [ "$result $verb" = "0 read" ]; then
                    same 0 "$(tr -d x <out | wc -c)"
                elif [ "$result $verb" = "0 copy" ]; then
                    # shellcheck disable=SC2046
                    same 0 "$(keepmap read "copy.$round" $(raw $kind) | tr -d x | wc -c)"
                    rm "copy.$round"
                fi
                [ ! -e "copy.$round" ]
            done
        done
    done
}
