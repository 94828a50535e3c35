# SPDX-License-Identifier: MIT
#
# What all command-line tests share: where the tool is, a directory for each test, processes that hold a map open.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

# The tool is $KEEPMAP, by default the one of the default build; the helpers of tests/support are built beside it.
TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
KEEPMAP=${KEEPMAP:-$TOP/build/keepmap}
TOOLS=$(dirname "$KEEPMAP")/tests

setup() {
    [ -x "$KEEPMAP" ] || {
        echo "no tool at $KEEPMAP: run make first" >&2
        return 1
    }
    DIR=$(mktemp -d "${TMPDIR:-/tmp}/keepmap-cli.XXXXXX")
    chmod 755 "$DIR"
    cd "$DIR" || return 1
    # Maps backed by the paging file: in a directory of this test's own, which other users may write to as to /dev/shm.
    KEEPMAP_SHM=$(mktemp -d /dev/shm/keepmap-cli.XXXXXX)
    chmod 1777 "$KEEPMAP_SHM"
    export KEEPMAP_SHM
    PIDS=()
    MOUNTS=()
    unset NO_COLOR
}

teardown() {
    local pid mount
    for pid in "${PIDS[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    cd / || return 1
    for mount in "${MOUNTS[@]}"; do
        umount "$mount"
    done
    rm -rf "$DIR" "$KEEPMAP_SHM"
}

# keepmap ARGUMENTS...: the tool, bounded in time, without the runner's own descriptors.
keepmap() {
    timeout --kill-after=5 30 "$KEEPMAP" "$@" 3>&-
}

# attempt ARGUMENTS...: run the tool; $status, $output and $stderr tell how it went. Standard input is empty.
attempt() {
    run --separate-stderr keepmap "$@" </dev/null
}

# expect STATUS ARGUMENTS...: the tool must end with STATUS.
expect() {
    local wanted=$1
    shift
    attempt "$@"
    [ "$status" -eq "$wanted" ] || {
        printf 'keepmap %s: status %s, not %s\n%s\n%s\n' "$*" "$status" "$wanted" "$output" "$stderr" >&2
        return 1
    }
}

# refused STATUS WORDS ARGUMENTS...: the tool must end with STATUS, print nothing as a result, and say WORDS (a pattern of
# the shell) in one line "keepmap: VERB TARGET: ...".
refused() {
    local wanted=$1 words=$2
    shift 2
    expect "$wanted" "$@" || return 1
    [ -z "$output" ] || {
        printf 'a refusal printed a result: %s\n' "$output" >&2
        return 1
    }
    [[ $stderr == keepmap:* && $stderr != *$'\n'* && $stderr == *$words* ]] || {
        printf 'not the message that was expected (%s): %s\n' "$words" "$stderr" >&2
        return 1
    }
}

# json FILTER: what the filter makes of the output, which must be one JSON value.
json() {
    jq -er "$1" <<<"$output"
}

# same WANTED FOUND: two texts are equal.
same() {
    [ "$1" = "$2" ] || {
        printf 'wanted: %s\nfound:  %s\n' "$1" "$2" >&2
        return 1
    }
}

checksum() {
    sha256sum "$1" | cut -d' ' -f1
}

# make_map FILE [OPTIONS...]: a map of 256 KiB, or as the options say, with "generation 1" at its start.
make_map() {
    local file=$1
    shift
    case " $* " in
    *" --size "*) keepmap create "$file" --quiet "$@" ;;
    *) keepmap create "$file" --quiet --size 256K "$@" ;;
    esac
    printf 'generation 1' | keepmap write "$file" --quiet
}

# header FILE SLOT FIELD [VALUE]...: tell or change fields of a header slot (a, b, both).
header() {
    "$TOOLS/tool_patch_header" "$@"
}

# flip FILE OFFSET: change one bit.
flip() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# noise LENGTH: bytes that look random and cannot be compressed, always the same.
noise() {
    seq 3000000 | gzip -nc 2>/dev/null | tail -c +100 | head -c "$1"
}

# wait_until COMMAND...: until it succeeds, at most ten seconds.
wait_until() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        "$@" && return
        sleep 0.05
    done
    printf 'did not happen in time: %s\n' "$*" >&2
    return 1
}

# hold TARGET WORDS...: a process that has the map open (see tests/support/tool_hold.c), once it is ready. Sets HOLDER.
hold() {
    local input
    input=$DIR/hold.${#PIDS[@]}
    mkfifo "$input.in"
    "$TOOLS/tool_hold" "$@" <"$input.in" >"$input.out" 2>&1 3>&- &
    HOLDER=$!
    PIDS+=("$HOLDER")
    # A writer that stays: the holder's input neither ends nor says anything.
    sleep 100 >"$input.in" 3>&- &
    PIDS+=("$!")
    wait_until grep -q ready "$input.out" || {
        cat "$input.out" >&2
        return 1
    }
}

# release PROCESS: let a holder close its map in order.
release() {
    echo >"$DIR/hold.$(index_of "$1").in"
    wait "$1"
}

index_of() {
    local i
    for i in "${!PIDS[@]}"; do
        [ "${PIDS[$i]}" = "$1" ] && echo "$i"
    done
}

# start NAME ARGUMENTS...: the tool in the background. Its standard input is the pipe NAME.in, which stays open; NAME.out and
# NAME.err take what it says. Sets STARTED.
start() {
    local name=$1 input
    shift
    mkfifo "$name.in"
    exec {input}<>"$name.in"
    "$KEEPMAP" "$@" <"$name.in" >"$name.out" 2>"$name.err" 3>&- {input}>&- &
    STARTED=$!
    PIDS+=("$STARTED")
}

# press NAME: press ENTER where start NAME waits for it.
press() {
    echo >"$1.in"
}

# is_over PROCESS: a child of this shell has ended.
is_over() {
    [ ! -e "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

# ended STATUS PROCESS: a child of this shell ends, with that status.
ended() {
    local found=0
    wait_until is_over "$2" || return 1
    wait "$2" || found=$?
    same "$1" "$found"
}

# crash TARGET WORDS...: what a process leaves behind that did WORDS and was killed.
crash() {
    hold "$@"
    kill -KILL "$HOLDER"
    wait "$HOLDER" 2>/dev/null || true
}

# small_disk SIZE: a file system of that size at $DIR/disk, or the test is skipped.
small_disk() {
    mkdir "$DIR/disk"
    mount -t tmpfs -o "size=$1" tmpfs "$DIR/disk" 2>/dev/null || skip "cannot mount a small file system here"
    MOUNTS+=("$DIR/disk")
}

# small_disk_with_holes SIZE: the same, of a kind where a part of a file that was never written takes no space.
small_disk_with_holes() {
    mkdir "$DIR/disk"
    truncate -s "$1" "$DIR/image"
    { PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -m 0 "$DIR/image" && mount -o loop "$DIR/image" "$DIR/disk"; } 2>/dev/null ||
        skip "cannot make and mount a small file system here"
    MOUNTS+=("$DIR/disk")
}

# need_root: the test is skipped unless it may change users.
need_root() {
    [ "$(id -u)" = 0 ] || skip "needs root, to drop its rights"
}

# as_nobody COMMAND...: as a user without rights.
as_nobody() {
    setpriv --reuid=65534 --regid=65534 --clear-groups timeout 30 "$@"
}
