#!/bin/sh
# Regenerate the Python code beside the protos. Run from the repository root with the development
# environment active. Imports in the generated code read "from protos.vitrine.v1 import ...".
set -eu
cd "$(dirname "$0")/.."
python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. protos/vitrine/v1/*.proto
