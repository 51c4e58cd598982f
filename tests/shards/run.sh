#!/usr/bin/env bash
# A suite over several machines, here several processes that share no folder but this tree: built once into an
# archive, run in shards from it, the reports merged. See docs/many-machines.md.
#
#     tests/shards/run.sh [SHARDS [NEXTEST-OPTIONS…]]
#
# The last line tells how many cases passed, failed and were skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

shards=${1:-3}
shift || true
[ $# -gt 0 ] || set -- --package kiln-suites --test payloads --test devices

if ! cargo nextest --version >/dev/null 2>&1; then
    echo "error: no cargo-nextest on PATH: \`cargo install cargo-nextest --locked\`" >&2
    exit 125
fi

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# One cache for all of them, as one machine has it; each machine of many has its own.
export KILN_CACHE=${KILN_CACHE:-$PWD/target/kiln}

cargo nextest archive --locked "$@" --archive-file "$place/suite.tar.zst" >&2

# What one of many machines does. Its number is all that it is told.
shard() {
    local own=$place/$1
    mkdir "$own"
    # Its report is to lie apart from the others'.
    { printf '[store]\ndir = "%s/store"\n\n' "$own" && cat .config/nextest.toml; } >"$own/nextest.toml"
    cargo nextest run --profile ci --config-file "$own/nextest.toml" --archive-file "$place/suite.tar.zst" --extract-to "$own" \
        --workspace-remap "$PWD" --partition "slice:$1/$shards" --no-tests pass >"$own/log" 2>&1 ||
        echo "shard $1 of $shards failed" >&2
    cp "$own/store/ci/junit.xml" "$place/$1.xml"
}

reports=()
running=()
for ((number = 1; number <= shards; number++)); do
    shard "$number" &
    running+=($!)
    reports+=("$place/$number.xml")
done
status=0
for ((number = 1; number <= shards; number++)); do
    wait "${running[number - 1]}" || status=125
    cat "$place/$number/log" >&2
done
[ "$status" -eq 0 ] || exit "$status"

# All that there is to run was run by one of them, and by no more than one.
listed=$(cargo nextest list --archive-file "$place/suite.tar.zst" --workspace-remap "$PWD" \
    --message-format json 2>/dev/null |
    grep -o '"ignored":false,"filter-match":{"status":"matches"' | wc -l)
cargo xtask ci merge --shards "$shards" --output "$place/all.xml" "${reports[@]}" | tee "$place/counts"
read -r passed _ failed _ <"$place/counts"
if [ "$((passed + failed))" -ne "$listed" ]; then
    echo "error: $listed cases are listed, and $passed passed and $failed failed" >&2
    exit 1
fi
[ "$failed" -eq 0 ]
