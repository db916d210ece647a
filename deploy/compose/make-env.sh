#!/usr/bin/env bash
# Writes .env beside docker-compose.yml (or the file named as first argument) with secrets made at
# random. Never overwrites one: the databases keep the secrets that they were first started with.
set -euo pipefail
umask 077
set -o noclobber # atomic: of two runs one fails

file=${1:-$(dirname "$0")/../../.env}

random() { openssl rand -hex 32; }
url_safe() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# A JSON web token (RFC 7519) without an end, signed with HMAC-SHA256.
token() {
  local body signature
  body=$(printf '{"alg":"HS256"}' | url_safe).$(printf '{"sub":"%s"}' "$1" | url_safe)
  signature=$(printf %s "$body" | openssl dgst -sha256 -hmac "$key" -binary | url_safe)
  printf %s "$body.$signature"
}

key=$(random)
cat > "$file" << END
MONGO_ROOT_PASSWORD=$(random)
MONGO_PASSWORD=$(random)
MONGO_REPLICA_KEY=$(random)
PULSAR_TOKEN_KEY=$(printf %s "$key" | openssl base64 -A)
PULSAR_ADMIN_TOKEN=$(token admin)
PULSAR_TOKEN=$(token syncline)
QDRANT_API_KEY=$(random)
HTTP_API_KEY=$(random)
GRAFANA_PASSWORD=$(random)
END
echo "wrote $file; keep it out of version control" >&2
