#!/bin/sh
# The wheel alone: built, measured, installed into an environment without the clone, and used there as README says.
#
#   .ci/wheel.sh            dependencies are those of .venv, which takes no download
#   .ci/wheel.sh --empty    dependencies are installed anew, as a user would get them
#
# Needs .venv with the extra dev (make lint makes it). Leaves the wheel and the source archive in dist/.
set -eu
cd "$(dirname "$0")/.."
most=$((40 * 1000 * 1000)) # bytes
clone=$PWD
python=$clone/.venv/bin/python
place=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$place"' EXIT

say() { printf '%s\n' "wheel: $*"; }

rm -rf dist
"$python" -m hatchling build -t wheel -t sdist -d dist >/dev/null
wheel=$(echo "$clone"/dist/celldetr-*.whl)
size=$(wc -c <"$wheel")
[ "$size" -lt "$most" ] || { say "$wheel has $size bytes, more than $most"; exit 1; }
say "$(basename "$wheel"), $((size / 1000000)) MB"

"$python" -m venv "$place/venv"
own=$place/venv/bin/python
if [ "${1:-}" = --empty ]; then
    "$own" -m pip install --quiet uv
    "$place/venv/bin/uv" pip install --quiet --python "$own" --constraint requirements.lock "celldetr[view] @ file://$wheel"
else
    "$own" -m pip install --quiet --no-deps --no-index "$wheel"
    # A path in a .pth file is searched, but the .pth files in it are not read: the clone, installed there, stays away.
    "$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' >"$("$own" -c 'import sysconfig
print(sysconfig.get_paths()["purelib"])')/of_the_clone.pth"
fi

cd "$place"
unset PYTHONPATH CELLDETR_MODELS 2>/dev/null || true
home=$("$own" -c 'import celldetr; print(celldetr.__file__)')
case $home in "$place"/*) ;; *) say "celldetr is imported from $home"; exit 1 ;; esac
"$place/venv/bin/celldetr" --version
"$place/venv/bin/celldetr" demo -o demo --quiet

: >address
"$place/venv/bin/celldetr" view demo --slides "$("$own" -m celldetr.demo_slide)" >address 2>view.log &
server=$!
for _ in $(seq 120); do
    grep -q '^open ' address && break
    kill -0 "$server" || { cat view.log; exit 1; }
    sleep 1
done
"$own" - "$(sed -n 's/^open //p' address)" <<'END'
import sys
from urllib.request import ProxyHandler, build_opener

page = build_opener(ProxyHandler({})).open(sys.argv[1], timeout=60).read()
assert b"<html" in page.lower(), page[:200]
END
kill "$server"
server=
say "demo and view run"

"$own" - "$clone/README.md" <<'END'
import re
import sys
from pathlib import Path

(snippet,) = re.findall(r"^```python\n(.*?)^```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
exec(snippet)
assert len(cells) > 100, cells
END
say "what README shows runs"
