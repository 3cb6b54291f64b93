//! The rules.

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $page:literal, $description:literal;)*) => {
        /// A lint rule. <https://docs.docker.com/reference/build-checks/> explains each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[$doc])* $variant,)*
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, as `# check=skip=` has it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it asks for.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }

            const fn page(self) -> &'static str {
                match self { $(Self::$variant => $page,)* }
            }
        }
    };
}

rules! {
    /// Stage names are lower case.
    StageNameCasing = "StageNameCasing", "stage-name-casing",
        "Stage names should be lowercase";
    /// `AS` is written like `FROM`.
    FromAsCasing = "FromAsCasing", "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword";
    /// No blank lines between continuation lines.
    NoEmptyContinuation = "NoEmptyContinuation", "no-empty-continuation",
        "Empty continuation lines will become errors in a future release";
    /// All instructions are written in one case.
    ConsistentInstructionCasing = "ConsistentInstructionCasing", "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)";
    /// No two stages of one name.
    DuplicateStageName = "DuplicateStageName", "duplicate-stage-name",
        "Stage names should be unique";
    /// No stage is called `scratch` or `context`.
    ReservedStageName = "ReservedStageName", "reserved-stage-name",
        "Reserved words should not be used as stage names";
    /// `CMD` and `ENTRYPOINT` are JSON arrays.
    JsonArgsRecommended = "JSONArgsRecommended", "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    /// No `MAINTAINER`.
    MaintainerDeprecated = "MaintainerDeprecated", "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    /// Variables of `FROM` are declared.
    UndefinedArgInFrom = "UndefinedArgInFrom", "undefined-arg-in-from",
        "FROM command must use declared ARGs";
    /// `WORKDIR` is absolute, at least once.
    WorkdirRelativePath = "WorkdirRelativePath", "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    /// Variables are defined.
    UndefinedVar = "UndefinedVar", "undefined-var",
        "Variables should be defined before their use";
    /// One `CMD`, `ENTRYPOINT` and `HEALTHCHECK` per stage.
    MultipleInstructionsDisallowed = "MultipleInstructionsDisallowed", "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage";
    /// `ENV` and `LABEL` use `=`.
    LegacyKeyValueFormat = "LegacyKeyValueFormat", "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used";
    /// Base images are of the wanted platform.
    InvalidBaseImagePlatform = "InvalidBaseImagePlatform", "",
        "Base image platform does not match expected target platform";
    /// No `--platform=$TARGETPLATFORM`.
    RedundantTargetPlatform = "RedundantTargetPlatform", "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    /// No secrets in `ARG` and `ENV`.
    SecretsUsedInArgOrEnv = "SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands";
    /// Defaults of global `ARG`s make base names that work.
    InvalidDefaultArgInFrom = "InvalidDefaultArgInFrom", "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name";
    /// `FROM --platform` holds a variable.
    FromPlatformFlagConstDisallowed = "FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value";
    /// `COPY` and `ADD` name no ignored files.
    CopyIgnoredFile = "CopyIgnoredFile", "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore";
    /// Comments above stages and arguments describe them. Off unless asked for.
    InvalidDefinitionDescription = "InvalidDefinitionDescription", "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    /// Protocols of `EXPOSE` are lower case.
    ExposeProtoCasing = "ExposeProtoCasing", "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase";
    /// `EXPOSE` names container ports alone.
    ExposeInvalidFormat = "ExposeInvalidFormat", "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
}

impl Rule {
    /// The page that explains it, empty if there is none.
    pub fn url(self) -> String {
        match self.page() {
            "" => String::new(),
            page => format!("https://docs.docker.com/go/dockerfile/rule/{page}/"),
        }
    }

    /// Whether it is off unless `# check=experimental=` names it.
    pub const fn is_experimental(self) -> bool {
        matches!(self, Self::InvalidDefinitionDescription)
    }
}
