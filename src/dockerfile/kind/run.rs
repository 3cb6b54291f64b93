//! `RUN`.

use super::{Parsed, Request};
use crate::{
    dockerfile::{
        InstructionKind, Network, Run, Security, Spanned,
        flags::Takes,
        mount::{check_unexpanded, parse_device},
        quote::quoted,
    },
    source::Diagnostic,
};

impl Request<'_> {
    pub(super) fn run(&self) -> Parsed {
        let flags = self.flags(&[
            ("mount", Takes::Values),
            ("network", Takes::Value),
            ("security", Takes::Value),
            ("device", Takes::Values),
        ])?;
        let mounts = flags.values("mount");
        for mount in &mounts {
            check_unexpanded(&mount.value)
                .map_err(|e| Diagnostic::error(e.to_string(), mount.span))?;
        }
        let network = flags.value("network").map(|value| {
            let network = match value.value.as_str() {
                "default" => Network::Default,
                "none" => Network::None,
                "host" => Network::Host,
                _ => {
                    let message = format!("invalid network mode {}", quoted(&value.value));
                    return Err(Diagnostic::error(message, value.span));
                }
            };
            Ok(Spanned::new(network, value.span))
        });
        let security = flags.value("security").map(|value| {
            let security = match value.value.as_str() {
                "sandbox" => Security::Sandbox,
                "insecure" => Security::Insecure,
                _ => {
                    let message = format!("security {} is not valid", quoted(&value.value));
                    return Err(Diagnostic::error(message, value.span));
                }
            };
            Ok(Spanned::new(security, value.span))
        });
        let devices =
            flags
                .values("device")
                .into_iter()
                .map(|value| match parse_device(&value.value) {
                    Ok(device) => Ok(Spanned::new(device, value.span)),
                    Err(error) => Err(Diagnostic::error(error.to_string(), value.span)),
                });
        Ok(InstructionKind::Run(Run {
            command: self.command(self.words()),
            mounts,
            network: network.transpose()?,
            security: security.transpose()?,
            devices: devices.collect::<Result<_, _>>()?,
        }))
    }
}
