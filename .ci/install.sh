#!/bin/sh
# Create .venv and install celldetr into it with the versions of requirements.lock.
#
#   .ci/install.sh              what celldetr needs to run
#   .ci/install.sh view,onnx    that, and extras of pyproject.toml
#   .ci/install.sh dev          that, and what its tests and checks need
#
# Needs Python 3.11 to 3.14. uv is used where it is found, else brought into .venv by pip, else pip does its work: neither
# touches the system's Python, which many distributions protect (PEP 668). Mirrors and certificates are the user's own
# settings of uv and pip; no address is written here or in the lock.
#
# PyTorch's wheels for Linux on PyPI bring CUDA, several GB. Where there is no NVIDIA card, uv is asked for the CPU build, which
# lies elsewhere; where that cannot be reached, the one with CUDA does, too. UV_TORCH_BACKEND=cpu, cu130, rocm6.4, auto, ... is
# the user's own choice, which uv reads itself.
set -eu
cd "$(dirname "$0")/.."
extra=${1:+[$1]}
# Trust what the system trusts, as pip does: networks of laboratories often have a certificate authority of their own.
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"
# Where Python is told to keep no bytecode, each start would compile PyTorch from source; so it is done once, here.
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || export UV_COMPILE_BYTECODE="${UV_COMPILE_BYTECODE:-1}"
venv=.venv
python=$venv/bin/python

say() { printf '%s\n' "install: $*" >&2; }

works() { "$@" >/dev/null 2>&1; }

# A shim can be on the PATH and still not run, hence each candidate is run rather than looked up.
find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        if works "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'; then
            echo "$candidate"
            return
        fi
    done
    say "no Python 3.11 to 3.14 among: ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python};" \
        "install one, or name it: make PYTHON=/path/to/python3.12"
    exit 1
}

find_uv() {
    for candidate in ${UV:-uv} "$venv/bin/uv"; do
        if works "$candidate" --version; then
            echo "$candidate"
            return
        fi
    done
}

create_venv() {
    base=$(find_python)
    uv=$(find_uv)
    say "creating $venv with $("$base" --version)"
    if [ -n "$uv" ] && "$uv" venv --quiet --clear --no-project --seed --python "$base" "$venv"; then
        return
    fi
    # Debian's python3 lacks ensurepip until python3-venv is installed; its pip, if there, can serve the new environment.
    "$base" -m venv --clear "$venv" 2>/dev/null || "$base" -m venv --clear --without-pip "$venv"
    works "$python" -m pip --version || works "$base" -m pip --python "$python" install pip || {
        rm -rf "$venv"
        say "$base has neither ensurepip nor pip, and uv is not installed:" \
            "install the system's venv package (Debian, Ubuntu: python3-venv) or uv, then run make again"
        exit 1
    }
}

works "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || create_venv
uv=$(find_uv)
if [ -z "$uv" ]; then
    works "$python" -m pip install --quiet 'uv>=0.5' && uv=$(find_uv) || say "uv cannot be had here, using pip"
fi

uv_install() {
    "$uv" pip install --python "$python" --constraint requirements.lock "$@"
}

# One quick question, without the retries that a network of its own would make long.
cpu_build_can_be_had() {
    UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=20 works uv_install --dry-run --torch-backend cpu torch torchvision
}

say "installing celldetr$extra as in requirements.lock"
if [ -n "$uv" ]; then
    if [ -z "${UV_TORCH_BACKEND:-}" ] && [ "$(uname -s)" = Linux ] && ! works nvidia-smi; then
        if cpu_build_can_be_had; then
            uv_install --build-constraint requirements.lock --torch-backend cpu --editable ".$extra" && exit 0
        fi
        say "no CPU build of PyTorch to be had here, taking the one with CUDA"
    fi
    uv_install --build-constraint requirements.lock --editable ".$extra" && exit 0
    works "$python" -m pip --version || works "$python" -m ensurepip || exit 1
    say "uv could not; trying pip, which has its own settings"
fi
# Older pips have no --build-constraint; this variable reaches their isolated builds too.
PIP_CONSTRAINT=$PWD/requirements.lock "$python" -m pip install --disable-pip-version-check --editable ".$extra"
