//! What kaniko, buildah and podman call things, and what it is called here: a pipeline that comes from one of them is told all it has
//! to change at once.

use super::refused::{Refusal, off, on, switch, valued};

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

fn any(_: &str) -> bool {
    true
}

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
    valued("push-retry", "it is `--registry-retries`"),
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
    valued("logfile", "redirect standard error"),
    valued("build-arg-file", "each is a `--build-arg` of its own"),
];
