#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Names in the directories of objects that somebody else was there first to take: the whole directory, or one entry of it.
# (Entries that are symbolic links, pipes, directories or second names: named.bats.)

load helper

# refused_by_all TARGET WORDS: every verb refuses the target, in its usual form, and says why.
refused_by_all() {
    local verb
    local -a arguments
    for verb in create info read write verify log who watch sync checkpoint grow copy server client; do
        arguments=()
        case $verb in
        create) arguments=(--size 64K) ;;
        grow) arguments=(128K) ;;
        copy) arguments=("$DIR/copied.km") ;;
        watch) arguments=(--timeout 1) ;;
        esac
        attempt "$verb" "$1" "${arguments[@]}"
        same 7 "$status" || return 1
        [[ $stderr == "keepmap: $verb $1"*": "*"$2"* && $stderr != *$'\n'* ]] || {
            printf '%s\n' "$stderr" >&2
            return 1
        }
    done
    [ ! -e "$DIR/copied.km" ]
}

@test "a directory of local names that is a symbolic link is not followed" {
    local place=$KEEPMAP_SHM/keepmap-$(id -u)
    mkdir -m 700 "$KEEPMAP_SHM/elsewhere"
    ln -s "$KEEPMAP_SHM/elsewhere" "$place"
    refused_by_all 'Local\a' "symbolic link"
    same "" "$(ls -A "$KEEPMAP_SHM/elsewhere")"
    [ -L "$place" ]
    # The global names are in another place, and work.
    expect 0 create 'Global\a' --size 64K
    rm "$place"
    expect 0 create 'Local\a' --size 64K
}

@test "a directory of local names that others may enter or own is not used" {
    local place=$KEEPMAP_SHM/keepmap-$(id -u)
    mkdir "$place"
    chmod 777 "$place"
    refused_by_all 'Local\a' "open to others"
    same "" "$(ls -A "$place")"
    need_root
    chmod 700 "$place"
    chown 65534:65534 "$place"
    refused_by_all 'Local\a' "belongs to user 65534"
    same "" "$(ls -A "$place")"
    chown 0:0 "$place"
    expect 0 create 'Local\a' --size 64K
}

@test "a directory of global names where everybody may remove, or that leads elsewhere, is not used" {
    local place=$KEEPMAP_SHM/keepmap-global
    mkdir "$KEEPMAP_SHM/elsewhere"
    chmod 1777 "$KEEPMAP_SHM/elsewhere"
    ln -s elsewhere "$place"
    refused_by_all 'Global\a' "symbolic link"
    same "" "$(ls -A "$KEEPMAP_SHM/elsewhere")"
    rm "$place"
    mkdir "$place"
    chmod 777 "$place"
    refused_by_all 'Global\a' "sticky bit"
    same "" "$(ls -A "$place")"
    chmod 1777 "$place"
    expect 0 create 'Global\a' --size 64K
}

@test "another user can neither take the name of a living object away nor pass for it" {
    need_root
    local place=$KEEPMAP_SHM/keepmap-global
    start maker create 'Global\mine' --size 64K --permissions 0666
    wait_until [ -e "$place/mine" ]
    wait_until grep -q 'ends when this does' maker.err
    printf before | keepmap write 'Global\mine' --quiet
    run as_nobody rm -f "$place/mine"
    [ "$status" -ne 0 ]
    run as_nobody mv "$place/mine" "$place/moved"
    [ "$status" -ne 0 ]
    as_nobody sh -c "printf squatter >'$place/theirs'"
    same before "$(keepmap read 'Global\mine' --length 6)"
    # A file that only has the name has no user, so it is no object; who may not clear it away is told whose it is.
    cp "$KEEPMAP" tool
    chmod 755 tool
    run --separate-stderr setpriv --reuid=65533 --regid=65533 --clear-groups ./tool create 'Global\theirs' --size 64K \
        </dev/null
    same 7 "$status"
    [[ $stderr == *"another user"* ]]
    same squatter "$(cat "$place/theirs")"
    press maker
    ended 0 "$STARTED"
}
