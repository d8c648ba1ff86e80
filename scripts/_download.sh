# Sourced by download_first_stages.sh and download_models.sh: fetch one model into its folder, whole or not at all.
# BASE_URL names a mirror of https://ommer-lab.com/files (a file:// address works, too).

BASE_URL="${BASE_URL:-https://ommer-lab.com/files}"

fail() {
  echo "error: $1" >&2
  exit 2
}

# fetch_file ADDRESS TARGET
fetch_file() {
  local part="$2.part"
  if command -v curl >/dev/null; then
    curl --fail --location --silent --show-error --output "$part" "$1" || { rm -f "$part"; fail "$1 could not be fetched; look at the connection, or set BASE_URL to a mirror"; }
  elif command -v wget >/dev/null; then
    wget --quiet --output-document="$part" "$1" || { rm -f "$part"; fail "$1 could not be fetched; look at the connection, or set BASE_URL to a mirror"; }
  else
    fail "neither curl nor wget is installed; install one of them"
  fi
  mv "$part" "$2"
}

# fetch FOLDER PATH: a .zip is unpacked in FOLDER, another file becomes FOLDER/model.ckpt.
fetch() {
  local folder="$1" path="$2"
  if compgen -G "$folder/*.ckpt" >/dev/null; then
    echo "$folder: already there"
    return
  fi
  mkdir -p "$folder" || fail "$folder cannot be made; look at the permissions"
  echo "$folder: fetching $BASE_URL/$path"
  if [[ "$path" != *.zip ]]; then
    fetch_file "$BASE_URL/$path" "$folder/model.ckpt"
    return
  fi
  command -v unzip >/dev/null || fail "unzip is not installed; install it"
  fetch_file "$BASE_URL/$path" "$folder/model.zip"
  unzip -q -o "$folder/model.zip" -d "$folder" || { rm -f "$folder/model.zip"; fail "$folder/model.zip is no whole archive; run this again"; }
  rm -f "$folder/model.zip"
}

# fetch_named NAMES...: of the table MODELS (name to path) under ROOT the named ones, or all.
fetch_named() {
  local name
  for name in "$@"; do
    [[ -n "${MODELS[$name]:-}" ]] || fail "'$name' is none of: $(printf '%s\n' "${!MODELS[@]}" | sort | xargs)"
  done
  [[ $# -gt 0 ]] || set -- $(printf '%s\n' "${!MODELS[@]}" | sort)
  for name in "$@"; do fetch "$ROOT/$name" "${MODELS[$name]}"; done
}
