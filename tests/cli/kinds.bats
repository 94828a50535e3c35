#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Every verb on every kind of map, as the table in docs/cli.md says: what is not there is an error that says why.

load helper

verbs="create info read write verify log who watch list sync checkpoint grow copy server client"

# The table, as words: verb, then what happens on a transactional map, a live one, raw bytes, and in the paging file.
# "ok", or the number of the note that says why not.
table="
create      ok  ok  ok  ok
info        ok  ok  ok  ok
read        ok  ok  ok  ok
write       ok  ok  ok  ok
verify      ok  ok  2   ok
log         ok  3   2   ok
who         ok  ok  2   ok
watch       ok  ok  2   ok
sync        ok  ok  ok  ok
checkpoint  ok  ok  2   ok
grow        ok  ok  2   ok
copy        ok  ok  ok  ok
server      ok  5   ok  ok
client      ok  ok  ok  ok
"

# cell VERB COLUMN: of the table above.
cell() {
    awk -v verb="$1" -v column="$2" '$1 == verb { print $(column + 1) }' <<<"$table"
}

# with VERB TARGET: what makes a call of a verb complete.
with() {
    case $1 in
    create) echo "--size 64K" ;;
    read) echo "--length 1" ;;
    watch) echo "--since 0 --count 1 --timeout 5" ;;
    grow) echo 128K ;;
    copy) echo "copy.$RANDOM$RANDOM" ;;
    esac
}

# note NUMBER ARGUMENTS...: the call is refused for that reason.
note() {
    case $1 in
    2) refused 7 "raw bytes, which have no commits and no checksums" "${@:2}" ;;
    3) refused 7 "a live map has no journal" "${@:2}" ;;
    5) refused 2 "unknown option '--live'" "${@:2}" ;;
    *) false ;;
    esac
}

# walk PLACE: every verb on every kind of map in a place: "" for files, a prefix for objects.
walk() {
    local place=$1 verb kind target words result
    local kinds=(transactional live raw) options=("" --live --raw) made=("--max-size=128K" "--max-size=128K --live" --raw)
    for verb in $verbs; do
        [ "$verb" != list ] || continue
        for kind in 0 1 2; do
            target=$place${kinds[kind]}.$verb
            # shellcheck disable=SC2206
            words=($(with "$verb") ${options[kind]})
            # --live is said at creation, --raw every time.
            [ "$kind $verb" != "1 server" ] && [ "$verb" != create ] && [ "$kind" = 1 ] && unset 'words[-1]'
            if [[ $verb != create && $verb != server ]]; then
                rm -f maker.*
                # shellcheck disable=SC2086
                start maker create "$target" --size 64K --quiet ${made[kind]}
                wait_until eval "keepmap info '$target' ${options[kind]/--live/} >/dev/null 2>&1"
                # shellcheck disable=SC2086
                printf 'a\0b\0\0\0' | keepmap write "$target" --quiet ${options[kind]/--live/}
            fi
            result=$(cell "$verb" $((kind + 1)))
            if [ "$result" = ok ]; then
                expect 0 "$verb" "$target" "${words[@]}" || return 1
            else
                note "$result" "$verb" "$target" "${words[@]}" || return 1
            fi
            if [[ $verb != create && $verb != server && -n $place ]]; then
                press maker
                ended 0 "$STARTED" || return 1
            fi
        done
    done
}

@test "the table here is the one in docs/cli.md" {
    local line verb
    sed -n '/^| verb | transactional/,/^$/p' "$TOP/docs/cli.md" | tail -n +3 >rows
    for verb in $verbs; do
        line=$(grep "^| \`$verb\` |" rows)
        [ -n "$line" ] || { echo "no row for $verb" >&2; return 1; }
        [ "$verb" != list ] || continue
        local column
        for column in 1 2 3 4; do
            local text wanted
            text=$(awk -F' [|] ' -v column="$column" '{ sub(/ \|$/, ""); print $(column + 1) }' <<<"$line")
            wanted=$(cell "$verb" "$column")
            if [ "$wanted" = ok ]; then
                [[ $text != "no ("* ]]
            else
                same "no ($wanted)" "$text"
            fi
        done
    done
    same "$(wc -w <<<"$verbs")" "$(grep -c '^|' rows)"
    for verb in 1 2 3 4 5; do
        grep -q "^$verb\. Status" "$TOP/docs/cli.md"
    done
}

@test "every verb on every kind of file" {
    walk ""
}

@test "every verb on every kind of Local object" {
    walk 'Local\'
    same "" "$(find "$KEEPMAP_SHM" -type f)"
}

@test "every verb on every kind of Global object" {
    walk 'Global\'
    same "" "$(find "$KEEPMAP_SHM" -type f)"
}

@test "an object is neither replaced nor the place of a copy" {
    refused 2 "replaces files only" create 'Local\a' --size 64K --force
    make_map m.km
    refused 2 "ends with its last user" copy m.km 'Local\a'
}

@test "a map is written to by no verb with --raw, on a file or an object" {
    make_map m.km
    start maker create 'Local\m' --size 64K --quiet
    wait_until eval 'keepmap info "Local\m" >/dev/null 2>&1'
    local target verb
    for target in m.km 'Local\m'; do
        for verb in write sync server; do
            attempt "$verb" "$target" --raw
            [[ $status -ne 0 && $stderr == "keepmap: $verb $target: "* && $stderr == *map* ]]
        done
        keepmap info "$target" | grep -q 'state  *\(clean\|in use\)'
        expect 0 verify "$target"
    done
}
