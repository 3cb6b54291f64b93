//! What stages start from: nothing, an image, a named context.

use std::collections::BTreeSet;

use super::{
    Base, ImageSource, NamedContext,
    planner::Planner,
    state::{ContextRef, ImageState, SCRATCH},
};
use crate::{
    dockerfile::{Dockerfile, InstructionKind, lint::Warning, quote::quoted},
    oci::Platform,
    reference::Reference,
    source::{Diagnostic, Span, suggest},
};

impl Planner<'_> {
    /// The named context that replaces a stage or image.
    pub(super) fn find_context(
        &self,
        name: &str,
        platform: Option<&Platform>,
        span: Span,
    ) -> Result<Option<ContextRef>, Diagnostic> {
        if name.eq_ignore_ascii_case(SCRATCH) || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        let reference = Reference::parse(name).map_err(|error| {
            Diagnostic::error(format!("invalid context name {name}: {error}"), span)
        })?;
        let name = context_name(&reference);
        let platform = platform.unwrap_or(&self.options.platform);
        let mut general = None;
        for (key, kind) in &self.options.contexts {
            let found = || ContextRef {
                key: key.clone(),
                kind: *kind,
            };
            match key.split_once("::") {
                Some((given, for_platform)) => {
                    let matches_platform = for_platform
                        .parse::<Platform>()
                        .is_ok_and(|p| p.normalized() == platform.clone().normalized());
                    if matches_platform && normal_name(given) == name {
                        return Ok(Some(found()));
                    }
                }
                None if normal_name(key) == name => general = Some(found()),
                None => {}
            }
        }
        Ok(general)
    }

    /// Finds out what states start from. What comes back are the images whose configs are missing.
    pub(super) fn resolve(
        &mut self,
        reachable: &BTreeSet<usize>,
    ) -> Result<Vec<(ImageSource, Span)>, Diagnostic> {
        let mut needed: Vec<(ImageSource, Span)> = Vec::new();
        for at in 0..self.states.len() {
            let state = &self.states[at];
            if state.base.is_some() || state.origin.is_some() {
                continue;
            }
            let is_wanted = self.options.all_stages || reachable.contains(&at);
            if state.base_name == SCRATCH && state.replaced_by.is_none() {
                let state = &mut self.states[at];
                state.origin = Some(Base::Scratch);
                state.image = ImageState::scratch(&self.options.platform);
                state.platform = Some(self.options.platform.clone());
                state.is_done = state.is_bare();
                continue;
            }
            if let Some(missing) = self.resolve_base(at, is_wanted)?
                && !needed.iter().any(|(known, _)| *known == missing)
            {
                needed.push((missing, self.states[at].span));
            }
        }
        Ok(needed)
    }

    /// Finds out what one state starts from; the image whose config is missing, if one is.
    fn resolve_base(
        &mut self,
        at: usize,
        is_wanted: bool,
    ) -> Result<Option<ImageSource>, Diagnostic> {
        let state = &self.states[at];
        let span = state.span;
        let reference = match Reference::parse(&state.base_name) {
            Ok(reference) => reference.with_default_tag(),
            Err(error) => {
                let error = self.wrong_base(at, &error.to_string());
                self.excuse(error)?;
                self.assume_base(at);
                return Ok(None);
            }
        };
        let replaces_stage = state.replaced_by.is_some();
        let platform = state
            .platform
            .clone()
            .unwrap_or_else(|| self.options.platform.clone());
        self.states[at].is_done |= self.states[at].is_bare();
        if !is_wanted {
            return Ok(None);
        }
        let context = match self.states[at].replaced_by.clone() {
            Some(context) => Some(context),
            None => self.find_context(&reference.to_string(), Some(&platform), span)?,
        };
        let source = match context {
            Some(context) if context.kind == NamedContext::Image => ImageSource {
                name: context.key,
                named: true,
                platform: platform.clone(),
            },
            Some(context) => {
                let state = &mut self.states[at];
                state.origin = Some(match context.kind {
                    NamedContext::Directory => Base::Context(context.key),
                    _ => Base::Scratch,
                });
                if replaces_stage {
                    state.is_done = true;
                    state.image.platform = platform;
                } else {
                    state.image = ImageState::scratch(&platform);
                    state.platform = Some(platform);
                }
                return Ok(None);
            }
            None => ImageSource {
                name: reference.to_string(),
                named: false,
                platform: platform.clone(),
            },
        };
        let image = match self.bases.get(&source) {
            Some(config) => ImageState::from_base(config),
            None if self.options.assume_bases => ImageState {
                platform: platform.clone(),
                ..ImageState::default()
            },
            None => return Ok(Some(source)),
        };
        self.start_from(at, source, image, platform, replaces_stage);
        Ok(None)
    }

    fn wrong_base(&self, at: usize, reason: &str) -> Diagnostic {
        let state = &self.states[at];
        let name = quoted(&state.base_name);
        let message = format!("failed to parse stage name {name}: {reason}");
        let error = Diagnostic::error(message, state.span);
        let lower = state.base_name.to_lowercase();
        if self.by_name.contains_key(&lower) {
            error.with_hint(format!(
                "FROM takes the names of stages in lower case: {lower}"
            ))
        } else {
            error
        }
    }

    /// Takes the base of a state as an image of that name, whatever the name.
    fn assume_base(&mut self, at: usize) {
        let state = &mut self.states[at];
        let wanted = state.platform.as_ref();
        let platform = wanted.unwrap_or(&self.options.platform).clone();
        state.is_done |= state.is_bare();
        state.image = ImageState {
            platform: platform.clone(),
            ..ImageState::default()
        };
        state.platform = Some(platform.clone());
        state.origin = Some(Base::Image(ImageSource {
            name: state.base_name.clone(),
            named: false,
            platform,
        }));
    }

    /// Notes that a state starts from an image.
    fn start_from(
        &mut self,
        at: usize,
        source: ImageSource,
        image: ImageState,
        mut platform: Platform,
        replaces_stage: bool,
    ) {
        let is_named = source.named;
        let state = &mut self.states[at];
        if replaces_stage {
            state.is_done = true;
            if !image.platform.os.is_empty() && !image.platform.architecture.is_empty() {
                state.platform = Some(image.platform.clone());
            }
        } else if !is_named {
            let same = |p: &Platform| {
                p.os == image.platform.os && p.architecture == image.platform.architecture
            };
            let build = &self.options.build_platform;
            if state.platform.is_none()
                && !self.options.platform_explicit
                && !same(&platform)
                && same(build)
            {
                platform.clone_from(build);
            }
            if !image.is_empty && !same(&platform) {
                let warning = Warning::invalid_base_image_platform(
                    &state.written,
                    &platform.clone().normalized().to_string(),
                    &image.platform.clone().normalized().to_string(),
                    state.span,
                );
                self.linter.report(None, warning);
            }
        }
        if !replaces_stage {
            state.platform = Some(platform);
        }
        if !is_named && !image.is_empty && !state.is_bare() {
            let text = format!("FROM {}", source.name);
            state.from_label = Some(state.label(&text, self.shows_platform).label);
        }
        state.image = image;
        state.origin = Some(Base::Image(source));
    }
}

impl ImageSource {
    /// The stage or well-known image that may be meant when there is no such image.
    pub fn suggest<'a>(&self, file: &'a Dockerfile) -> Option<&'a str> {
        let name = normal_name(&self.name);
        let stages = file.instructions.iter().filter_map(|instruction| {
            let InstructionKind::From(from) = &instruction.kind else {
                return None;
            };
            from.alias.as_ref().map(|alias| alias.name.value.as_str())
        });
        let candidates: Vec<&str> = stages.chain(WELL_KNOWN).collect();
        // A name that is spelt right has another problem.
        if candidates.contains(&name.as_str()) {
            return None;
        }
        suggest(&name, candidates)
    }
}

/// Images that BuildKit thinks of when a name is wrong.
const WELL_KNOWN: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
];

/// How a named context calls an image: short, and without the tag `latest`.
fn context_name(reference: &Reference) -> String {
    let name = reference.familiar();
    name.strip_suffix(":latest")
        .map_or_else(|| name.clone(), ToOwned::to_owned)
}

fn normal_name(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| context_name(&reference))
}
