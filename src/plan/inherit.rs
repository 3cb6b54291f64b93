//! What a stage takes over from the one that it starts from, and what is kept of one that is done.
//!
//! Each stage of a chain has the variables of all before it. So that memory does not grow with the square of the length, only
//! stages that others will start from keep them, and the last of those takes them over.

use std::mem;

use super::{
    env::{ConfigEnv, Env},
    planner::Planner,
    state::ImageState,
};
use crate::oci::Config;

impl Planner<'_> {
    /// Takes over what the stage that it starts from has come to.
    pub(super) fn inherit(&mut self, at: usize) {
        let Some(base) = self.states[at].base else {
            return;
        };
        let is_told = self.is_told(base);
        let base = &mut self.states[base];
        base.n_heirs -= 1;
        let (platform, has_workdir) = (base.platform.clone(), base.has_workdir);
        let mut image = ImageState {
            author: base.image.author.clone(),
            platform: base.image.platform.clone(),
            is_empty: base.image.is_empty,
            ..ImageState::default()
        };
        // The last one takes over what the base has no use for any more: in a chain of stages, what each sets would else be
        // copied for all behind it.
        let is_last = base.n_heirs == 0;
        image.config = if is_last && !is_told {
            mem::take(&mut base.image.config)
        } else {
            base.image.config.clone()
        };
        let (env, args);
        if is_last {
            image.config_env = mem::take(&mut base.image.config_env);
            (env, args) = (mem::take(&mut base.env), mem::take(&mut base.args));
        } else {
            image.config_env = base.image.config_env.clone();
            (env, args) = (base.env.clone(), base.args.clone());
        }
        image.config.on_build.clear();
        let state = &mut self.states[at];
        state.image = image;
        state.platform = platform;
        state.env = env;
        state.args = args;
        state.has_workdir = has_workdir;
    }

    /// Lets go of what a stage that is done was made with, and notes what is still to be told of it.
    pub(super) fn forget(&mut self, at: usize) {
        self.states[at].scanned = Some(self.scanned(at));
        let is_told = self.is_told(at);
        let state = &mut self.states[at];
        if state.n_heirs > 0 {
            return;
        }
        state.env = Env::default();
        state.args = Vec::new();
        state.image.config_env = ConfigEnv::default();
        if !is_told {
            state.image.config = Config::default();
        }
    }
}
