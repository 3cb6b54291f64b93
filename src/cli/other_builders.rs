//! What kaniko, buildah and podman call things, and what it is called here: a pipeline that comes from one of them is told all it has
//! to change at once.

use super::refused::{Refusal, any, off, on, switch, valued};

const REGISTRY: &str =
    "say `--insecure-registry HOST` for one without TLS or with a certificate that nobody knows";
const SNAPSHOT: &str = "layers hold what steps changed; there are no modes";
const CREDENTIALS: &str =
    "`rbuild login` keeps credentials; $REGISTRY_AUTH_FILE and $DOCKER_CONFIG say where they are";
const DIGEST: &str = "`--metadata-file` writes the digest with the names, `--iidfile` the image ID";
const PLATFORM: &str = "say it as `--platform OS/ARCH[/VARIANT]`";
const CONTEXT: &str = "the context is the argument without a dash";
const CACHE: &str =
    "the store keeps the cache; `--cache-to` and `--cache-from` take it to other machines";
const STEPS: &str =
    "what steps may do is set by `RUN --mount`, `--network` and `--security` in the Dockerfile";
const TIMES: &str =
    "set $SOURCE_DATE_EPOCH, and `-o …,rewrite-timestamp=true` for the times of files";

const NAMESPACES: &str =
    "a step has namespaces of its own where there can be some; `--isolation` says which";
const NAMES: &str = "steps ask the name servers of this machine; `--add-host` adds names";
const RETRIES: &str = "it is `--registry-retries`; the time between two tries grows by itself";
const RUNTIME: &str = "rbuild runs steps itself; there is no runtime";

const COMPRESSION: &str = "it is one of `-o`: `-o type=…,compression=FORM,compression-level=LEVEL`";

fn never(_: &str) -> bool {
    false
}

pub(super) const OPTIONS: &[Refusal] = &[
    // kaniko
    Refusal {
        short: Some('d'),
        ..valued(
            "destination",
            "name the result with `-t NAME` and add `--push`",
        )
    },
    Refusal {
        id: "context-option",
        ..valued("context", CONTEXT)
    },
    valued("context-sub-path", CONTEXT),
    valued("dockerfile", "it is `--file`"),
    switch("no-push", on, "leave `--push` out"),
    valued("tar-path", "it is `-o type=docker,dest=FILE`"),
    valued("oci-layout-path", "it is `-o type=oci,tar=false,dest=DIR`"),
    valued("digest-file", DIGEST),
    valued("image-name-with-digest-file", DIGEST),
    valued("image-name-tag-with-digest-file", DIGEST),
    valued("custom-platform", PLATFORM),
    valued("customPlatform", PLATFORM),
    switch("cache", on, "`--no-cache` builds without the cache"),
    valued("cache-repo", CACHE),
    valued("cache-dir", CACHE),
    valued(
        "cache-ttl",
        "`rbuild cache prune --filter until=TIME` drops what is older",
    ),
    switch("cache-copy-layers", on, CACHE),
    switch("cache-run-layers", on, CACHE),
    switch("compressed-caching", any, ""),
    switch("insecure", off, REGISTRY),
    switch("insecure-pull", off, REGISTRY),
    switch("skip-tls-verify", off, REGISTRY),
    switch("skip-tls-verify-pull", off, REGISTRY),
    valued("skip-tls-verify-registry", REGISTRY),
    valued("snapshot-mode", SNAPSHOT),
    valued("snapshotMode", SNAPSHOT),
    switch(
        "single-snapshot",
        off,
        "each instruction has a layer of its own",
    ),
    switch("use-new-run", any, ""),
    switch(
        "skip-unused-stages",
        on,
        "stages that nothing needs are never built",
    ),
    switch("cleanup", any, ""),
    switch("reproducible", off, TIMES),
    switch("force", any, ""),
    valued("push-retry", RETRIES),
    valued("image-download-retry", RETRIES),
    valued("image-fs-extract-retry", RETRIES),
    valued("compression", COMPRESSION),
    valued("compression-level", COMPRESSION),
    switch("force-build-metadata", any, ""),
    valued(
        "git",
        "the address of a repository says it: `URL#BRANCH:DIRECTORY`",
    ),
    valued("ignore-path", SNAPSHOT),
    switch("ignore-var-run", off, SNAPSHOT),
    valued("kaniko-dir", "`--root` says where the store is"),
    Refusal {
        fine: |value| matches!(value, "text" | "color"),
        ..valued("log-format", "`--progress rawjson` is JSON")
    },
    switch(
        "log-timestamp",
        off,
        "the events of `--progress rawjson` have their time",
    ),
    switch("no-push-cache", any, ""),
    switch(
        "push-ignore-immutable-tag-errors",
        off,
        "a push that is refused is an error",
    ),
    valued(
        "registry-client-cert",
        "a certificate to show lies with its key in the `certs.d` directory of the registry",
    ),
    valued(
        "registry-map",
        "mirrors are in registries.conf, those of docker.io in `--registry-mirror`, too",
    ),
    switch(
        "skip-default-registry-fallback",
        off,
        "registries.conf says whether a registry is asked when its mirrors fail",
    ),
    switch("skip-push-permission-check", any, ""),
    valued("tarPath", "it is `-o type=docker,dest=FILE`"),
    Refusal {
        short: Some('v'),
        ..valued(
            "verbosity",
            "`--progress plain` shows everything; a directory for a step is `RUN --mount` in the Dockerfile",
        )
    },
    // buildah and podman
    switch("layers", on, "each instruction has a layer of its own"),
    switch("tls-verify", on, REGISTRY),
    valued(
        "jobs",
        "stages are built side by side, as many as there are",
    ),
    valued("arch", PLATFORM),
    valued("os", PLATFORM),
    valued("variant", PLATFORM),
    switch("all-platforms", off, PLATFORM),
    valued(
        "manifest",
        "`--platform A,B` makes an index; `rbuild manifest create` joins images that are built apart",
    ),
    valued("authfile", CREDENTIALS),
    valued("creds", CREDENTIALS),
    valued("cert-dir", "`--registry-certificate` names a certificate"),
    valued("signature-policy", "signatures of images are not looked at"),
    valued(
        "ignorefile",
        "it is `.dockerignore`, or `NAME.dockerignore` beside the Dockerfile NAME",
    ),
    valued("volume", STEPS),
    valued("device", STEPS),
    valued("cap-add", STEPS),
    valued("cap-drop", STEPS),
    valued("userns", STEPS),
    valued(
        "env",
        "`ENV` in the Dockerfile, or an `ARG` with `--build-arg`",
    ),
    valued("unsetenv", "`ENV NAME=` in the Dockerfile leaves it empty"),
    valued("timestamp", TIMES),
    valued("source-date-epoch", TIMES),
    switch("rewrite-timestamp", never, TIMES),
    switch(
        "squash-all",
        off,
        "layers are not squashed; build in one stage and `COPY --from` it into another",
    ),
    switch("pull-always", never, "it is `--pull`"),
    switch(
        "pull-never",
        never,
        "base images are looked up in the store first; there is no way to forbid the registry",
    ),
    valued(
        "from",
        "`--build-context NAME=docker-image://IMAGE` takes IMAGE for the base NAME",
    ),
    switch("disable-compression", off, COMPRESSION),
    valued("cgroupns", NAMESPACES),
    valued("ipc", NAMESPACES),
    valued("pid", NAMESPACES),
    valued("uts", NAMESPACES),
    valued("userns-uid-map", NAMESPACES),
    valued("userns-gid-map", NAMESPACES),
    valued("userns-uid-map-user", NAMESPACES),
    valued("userns-gid-map-group", NAMESPACES),
    valued("dns", NAMES),
    valued("dns-option", NAMES),
    valued("dns-search", NAMES),
    switch("no-hosts", off, NAMES),
    valued("retry", RETRIES),
    valued("retry-delay", RETRIES),
    valued("runtime", RUNTIME),
    valued("runtime-flag", RUNTIME),
    valued("hooks-dir", RUNTIME),
    valued("cpp-flag", "Dockerfiles are read as they are"),
    valued("decryption-key", "encrypted layers cannot be read"),
    valued(
        "sign-by",
        "images are not signed; other programs sign them by the digest that `--metadata-file` has",
    ),
    switch(
        "http-proxy",
        off,
        "steps get the proxies that are given: `--build-arg HTTP_PROXY=…`",
    ),
    switch("identity-label", off, "`--label` sets labels"),
    switch("omit-history", off, "the history is part of an image"),
    switch("stdin", off, "steps have no standard input"),
    switch("logsplit", off, "redirect standard error"),
    valued("os-feature", PLATFORM),
    valued("os-version", PLATFORM),
    valued("logfile", "redirect standard error"),
    valued("build-arg-file", "each is a `--build-arg` of its own"),
];
