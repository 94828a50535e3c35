#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Maps backed by the paging file: how long they live, who sees them, what stands in their place.

load helper

# made NAME TARGET OPTIONS...: an object that stays until press NAME, made by the tool.
made() {
    local name=$1
    shift
    start "$name" create "$@" || return 1
    wait_until eval "[ -s '$name.out' ] || grep -q 'ends when this does' '$name.err'" || {
        cat "$name.err" >&2
        return 1
    }
}

# nothing_left: no object has a file.
nothing_left() {
    same "" "$(find "$KEEPMAP_SHM" ! -type d)"
}

@test "create keeps the object until ENTER, and says so" {
    made maker 'Local\a' --size 1M
    same "created Local\\a: 1048576 bytes (1 MiB) of data, 1 MiB of journal, checksum crc32c" "$(cat maker.out)"
    same "keepmap: Local\\a ends when this does: press ENTER, or end standard input, when you are done" "$(cat maker.err)"
    expect 0 info 'Local\a' --json
    same "true 1048576" "$(json '"\(.paging_file) \(.size)"')"
    press maker
    ended 0 "$STARTED"
    refused 3 "" info 'Local\a'
    nothing_left
}

@test "create reports before it waits, as JSON too, and --quiet says nothing" {
    made maker 'Global\a' --size 64K --json
    wait_until jq -e '.target == "Global\\a" and .size == 65536' maker.out
    press maker
    ended 0 "$STARTED"
    start silent create 'Local\a' --size 64K --quiet
    wait_until eval 'keepmap info "Local\a" >/dev/null 2>&1'
    press silent
    ended 0 "$STARTED"
    same "" "$(cat silent.out silent.err)"
}

@test "create ends with its standard input, at once if that is closed" {
    expect 0 create 'Local\a' --size 64K
    [[ $stderr == *"ends when this does"* ]]
    run --separate-stderr bash -c '"$0" create "Local\\a" --size 64K <&-' "$KEEPMAP"
    same 0 "$status"
    nothing_left
}

@test "there is one object of a name, and none to be replaced" {
    made maker 'Local\a' --size 64K
    refused 4 "exists already" create 'Local\a' --size 64K
    [[ $stderr != *--force* ]]
    refused 2 "replaces files only" create 'Local\a' --size 64K --force
    refused 4 "exists already" create 'Local\a' --raw --size 64K
    # Case matters, and so does the prefix.
    expect 0 create 'Local\A' --size 64K
    expect 0 create 'Global\a' --size 64K
}

@test "every verb works on an object as on a file" {
    made maker 'Local\a' --size 256K --max-size 1M --schema counter:3
    printf 'some words' | keepmap write 'Local\a' --quiet --schema counter:3
    refused 6 "" info 'Local\a' --schema counter:4
    same "some words" "$(keepmap read 'Local\a' --length 10)"
    expect 0 verify 'Local\a'
    [[ $output == "Local\\a is sound: generation 1,"* ]]
    expect 0 log 'Local\a' --json
    same 1 "$(json '.commits | length')"
    expect 0 who 'Local\a' --json
    same "$STARTED" "$(json '.users[0].process_id')"
    expect 0 watch 'Local\a' --since 0 --count 1
    expect 0 sync 'Local\a'
    expect 0 checkpoint 'Local\a'
    expect 0 grow 'Local\a' 512K
    expect 0 copy 'Local\a' copy.km
    press maker
    ended 0 "$STARTED"
    nothing_left
    expect 0 verify copy.km
    same "some words" "$(keepmap read copy.km --length 10)"
    same 524288 "$(keepmap info copy.km --json | jq .size)"
}

@test "an object begins with the bytes of a file" {
    noise 100000 >input
    made maker 'Local\a' --from input
    keepmap read 'Local\a' | cmp - input
    refused 2 "bytes of a file" create copy.km --from 'Local\a'
}

@test "list tells target, mode, size, generation and users, Local ones first" {
    made b 'Local\b' --size 64K
    made a 'Local\a' --size 1M --live
    made c 'Global\a' --size 5000 --raw
    printf x | keepmap write 'Local\b' --quiet
    start reader client 'Local\b'
    wait_until grep -q '^Press' reader.out
    expect 0 list
    same 4 "$(wc -l <<<"$output")"
    [[ $(sed -n 1p <<<"$output") =~ ^target\ +mode\ +size\ +generation\ +writers\ +readers$ ]]
    [[ $(sed -n 2p <<<"$output") =~ ^Local.a\ +live\ +1\ MiB\ +0\ +1\ +no$ ]]
    [[ $(sed -n 3p <<<"$output") =~ ^Local.b\ +transactional\ +64\ KiB\ +1\ +1\ +yes$ ]]
    [[ $(sed -n 4p <<<"$output") =~ ^Global.a\ +raw\ +4\.9\ KiB\ +-\ +1\ +no$ ]]
    expect 0 list --json
    same 'Local\a live 1048576 0 1 false,Local\b transactional 65536 1 1 true,Global\a raw 5000 null 1 false' \
        "$(json '[.maps[] | "\(.target) \(.mode) \(.size) \(.generation) \(.handles) \(.read_only_handles)"] | join(",")')"
    sed -n '/^### list as JSON/,/^## /s/^| `\([a-z_]*\)` .*/\1/p' "$TOP/docs/cli.md" | grep -v error | sort >documented
    jq -r '[.maps[] | keys[]] | unique[]' <<<"$output" | diff documented -
}

@test "what the killed left is gone for all, and a new one can be made" {
    local name
    for name in 'Local\a' 'Global\a'; do
        rm -f maker.*
        made maker "$name" --size 64K
        printf old | keepmap write "$name" --quiet
        kill -KILL "$STARTED"
        wait "$STARTED" || true
        refused 3 "" info "$name"
        refused 3 "" write "$name"
        expect 0 list
        same "no maps are backed by the paging file now" "$output"
        rm -f maker.*
        made maker "$name" --size 64K
        same 0 "$(keepmap info "$name" --json | jq .generation)"
        press maker
        ended 0 "$STARTED"
    done
    nothing_left
}

@test "list clears away what the killed left" {
    made maker 'Local\a' --size 64K
    kill -KILL "$STARTED"
    wait "$STARTED" || true
    [ -n "$(find "$KEEPMAP_SHM" -type f)" ]
    expect 0 list
    nothing_left
}

@test "KEEPMAP_SHM chooses the place, which must be memory" {
    made maker 'Local\a' --size 64K
    [ -f "$KEEPMAP_SHM/keepmap-$(id -u)/a" ]
    same "700" "$(stat -c %a "$KEEPMAP_SHM/keepmap-$(id -u)")"
    mkdir "$KEEPMAP_SHM/other"
    KEEPMAP_SHM=$KEEPMAP_SHM/other refused 3 "" info 'Local\a'
    KEEPMAP_SHM=$DIR/missing refused 7 "" info 'Local\a'
    [ "$(stat -f -c %T "$DIR")" = tmpfs ] || KEEPMAP_SHM=$DIR refused 7 "tmpfs" create 'Local\a' --size 64K
}

@test "what is no object of ours is refused by name, listed, and left alone" {
    local place
    expect 0 create 'Local\seed' --size 64K
    place=$KEEPMAP_SHM/keepmap-$(id -u)
    make_map m.km
    ln -s "$DIR/m.km" "$place/link"
    ln "$place/link" "$place/link2" 2>/dev/null || true
    mkdir "$place/directory"
    mkfifo "$place/pipe"
    cp m.km "$place/double"
    ln "$place/double" "$place/twin"
    local before name
    before=$(checksum m.km)
    for name in link directory pipe double twin; do
        expect_refusal info "Local\\$name"
        expect_refusal write "Local\\$name"
        expect_refusal read "Local\\$name" --raw
    done
    same "$before" "$(checksum m.km)"
    [ -L "$place/link" ] && [ -d "$place/directory" ] && [ -p "$place/pipe" ] && [ -f "$place/twin" ]
    expect 0 list --json
    same true "$(json '[.maps[] | has("error") and has("message")] | all')"
}

# expect_refusal ARGUMENTS...: refused, with whatever status, but in the usual form.
expect_refusal() {
    attempt "$@"
    [ "$status" -ne 0 ] && [ "$status" -le 7 ] && [[ $stderr == "keepmap: $1 $2: "* && $stderr != *$'\n'* ]]
}

@test "other users reach Global objects as far as permissions go, and no Local ones" {
    need_root
    cp "$KEEPMAP" tool
    chmod 755 tool
    made private 'Global\private' --size 64K
    made shared 'Global\shared' --size 64K --permissions 0666
    made mine 'Local\mine' --size 64K
    run --separate-stderr as_nobody ./tool info 'Global\private'
    same 7 "$status"
    [[ $stderr == "keepmap: info Global\\private: "*ermi* ]]
    run --separate-stderr bash -c "printf theirs | setpriv --reuid=65534 --regid=65534 --clear-groups ./tool write 'Global\\shared'"
    same 0 "$status"
    same theirs "$(keepmap read 'Global\shared' --length 6)"
    run --separate-stderr as_nobody ./tool info 'Local\mine'
    same 3 "$status"
    run --separate-stderr as_nobody ./tool list --json
    same 0 "$status"
    same 'Global\private KM_EACCESS,Global\shared null' "$(json '[.maps[] | "\(.target) \(.error)"] | join(",")')"
    run --separate-stderr as_nobody ./tool list
    [[ $(grep private <<<"$output") == 'Global\private'*ermi* ]]
    # What another user left is absent; only that user, or root, can clear it away.
    kill -KILL "${PIDS[1]}"
    wait "${PIDS[1]}" || true
    run --separate-stderr as_nobody ./tool info 'Global\shared'
    [ "$status" != 0 ]
    run --separate-stderr as_nobody ./tool create 'Global\shared' --size 64K </dev/null
    same 7 "$status"
    [[ $stderr == *"another user"*"choose another name"* ]]
}

@test "names are shown safely, and are JSON" {
    made maker $'Local\\Gr\xc3\xbc\xc3\x9fe "\xe4\xb8\x96" & $(x)' --size 64K
    expect 0 list
    [[ $output == *$'Local\\Gr\xc3\xbc\xc3\x9fe "\xe4\xb8\x96" & $(x)  '* ]]
    # A column is as wide as its widest name has characters, in whatever script.
    same "$(printf %s "${lines[0]%%mode*}" | LC_ALL=C.UTF-8 wc -m)" \
        "$(printf %s "${lines[1]%%transactional*}" | LC_ALL=C.UTF-8 wc -m)"
    expect 0 list --json
    same $'Local\\Gr\xc3\xbc\xc3\x9fe "\xe4\xb8\x96" & $(x)' "$(json '.maps[0].target')"
}
