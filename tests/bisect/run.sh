#!/usr/bin/env bash
# An example of bisecting: finds, in the kernel's own tree, which of ten commits broke it.
#
#     git bisect start BAD GOOD
#     git bisect run kiln smoke --src .
#
# is all that a kernel's developer has to type. The rest of this script makes a history to try it on: ten small
# commits over the distribution's kernel, of which one makes an initcall follow a null pointer, and another does not
# compile. `kiln smoke` ends in 1 for the first, which is "bad" to git, and in 125 for the second, which is "skip".
#
# Needs cargo, git, dpkg-deb and what builds a kernel (flex, bison, bc, libelf-dev); no root. The kernel's sources are
# those in /usr/src, else the distribution's package, fetched once into target/bisect. Takes minutes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/bisect
tree=$work/linux
# What kiln has fetched and built for this workspace serves here too.
export KILN_CACHE=${KILN_CACHE:-$target/kiln}
mkdir -p "$work"

fail() {
    echo "error: $*" >&2
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored;"
    exit 1
}

# Prints the path of the archive with the kernel's sources; 6.12's, or else the newest there is.
sources() {
    local found packages
    found=$(find /usr/src "$work/package/usr/src" -name 'linux-source-[0-9]*.tar.*' 2>/dev/null | newest)
    if [ -z "$found" ]; then
        # apt in folders of our own: no root, and the system's state is left alone.
        mkdir -p "$work"/apt/{state/lists/partial,cache/archives/partial,package}
        : >"$work/apt/status"
        local own=(-o Dir::State="$work/apt/state" -o Dir::State::status="$work/apt/status"
            -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=)
        apt-get "${own[@]}" --quiet update >&2
        packages=$(apt-cache "${own[@]}" pkgnames linux-source- | grep -E '^linux-source-[0-9.]+$')
        (cd "$work/apt/package" && apt-get "${own[@]}" --quiet download "$(newest <<<"$packages")" >&2)
        dpkg-deb -x "$work"/apt/package/linux-source-*.deb "$work/package"
        rm -r "$work/apt"
        found=$(find "$work/package/usr/src" -name 'linux-source-[0-9]*.tar.*' | newest)
    fi
    echo "$found"
}

newest() {
    local all
    all=$(sort -V)
    grep -E 'linux-source-6\.12($|\.tar)' <<<"$all" || tail -n 1 <<<"$all"
}

# Unpacks the sources, once, without most of what x86-64 and virtual machines have no use for.
unpack() {
    local archive partial=$work/linux.part
    archive=$(sources)
    [ -n "$archive" ] || fail "the distribution has no package linux-source"
    rm -rf "$partial" && mkdir "$partial"
    local without=()
    for folder in drivers/gpu "drivers/net/*" drivers/media drivers/staging drivers/infiniband drivers/scsi sound; do
        without+=(--exclude="linux-source-*/$folder/*.[ch]")
    done
    tar -xf "$archive" -C "$partial" --strip-components=1 "${without[@]}" --exclude='*.dts' --exclude='*.dtsi' \
        --exclude='*.rst' --exclude='linux-source-*/tools/testing/*'
    mv "$partial" "$tree"
}

quietly() { git -C "$tree" -c user.name=kiln -c user.email=kiln@localhost -c commit.gpgsign=false -c gc.auto=0 "$@"; }

# commit SUBJECT FILE LINE: adds a line to a file of the kernel's.
commit() {
    echo "$3" >>"$tree/$2"
    quietly commit --quiet --all --message "$1"
}

# Ten commits; git knows the few folders that they are in, which makes it quick.
history() {
    # What an earlier run changed goes back, and only that, so that little is to be built.
    if [ -d "$tree/.git" ]; then
        rm -f "$tree/.git/index.lock"
        ! quietly rev-parse --quiet --verify base >/dev/null || quietly reset --quiet --hard base
        rm -rf "$tree/.git"
    fi
    quietly init --quiet
    echo '*' >"$tree/.git/info/exclude"
    quietly add --force Makefile init lib/*.c
    quietly commit --quiet --message 'Import'
    quietly tag base
    local harmless='static const int __maybe_unused harmless_'
    commit 'init: note the first thing' init/calibrate.c "${harmless}1 = 1;"
    commit 'lib: note the second thing' lib/ctype.c "${harmless}2 = 2;"
    commit 'init: note the third thing' init/do_mounts.c "${harmless}3 = 3;"
    commit 'lib: note the fourth thing' lib/cmdline.c "${harmless}4 = 4;"
    commit 'init: begin what is finished later' init/calibrate.c 'static int __init unfinished('
    quietly tag broken
    commit 'init: finish it' init/calibrate.c 'void) { return 0; } late_initcall(unfinished);'
    commit 'lib: note the seventh thing' lib/sort.c "${harmless}7 = 7;"
    commit 'init: count what is not there' init/do_mounts.c \
        'static int __init planted(void) { int *volatile none = NULL; return *none; } late_initcall(planted);'
    quietly tag planted
    commit 'lib: note the ninth thing' lib/ctype.c "${harmless}9 = 9;"
    commit 'init: note the tenth thing' init/calibrate.c "${harmless}10 = 10;"
}

[ -d "$tree" ] || unpack
history

# Into a folder of its own, as anyone would into ~/.cargo; not optimised, because that is what is built already.
cargo install --quiet --debug --locked --path "$root/xtask" --root "$work/installed" --target-dir "$target"
PATH=$work/installed/bin:$PATH

cd "$tree"
last=$(git rev-parse HEAD)
git checkout --quiet base
kiln smoke --src . || fail "the kernel does not pass before anything was planted"

git checkout --quiet -B main "$last"
git bisect start main base
git bisect run kiln smoke --src .

found=$(git rev-parse refs/bisect/bad)
skipped=$(git for-each-ref --format='%(objectname)' 'refs/bisect/skip-*')
git bisect reset >/dev/null 2>&1
[ "$found" = "$(git rev-parse planted)" ] || fail "git blames $(git show --no-patch --oneline "$found")"
[ "$skipped" = "$(git rev-parse broken)" ] || fail "the commit that does not compile was not skipped"
# The sound kernel is left behind, for who wants to look at one with symbols.
git checkout --quiet --detach base
kiln kernel build --src . >/dev/null
echo "found: $(git show --no-patch --oneline planted)"
echo "test result: ok. 1 passed; 0 failed; 0 ignored;"
