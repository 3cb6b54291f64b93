//! Progress for programs: BuildKit's `rawjson`, one status object on a line.
//!
//! A vertex is named by a digest of its number and name; times are RFC 3339; log data is base64. Fields that say
//! nothing are left out.
//!
//! With `--explain` there are lines of a kind that BuildKit does not have:
//! `{"explanations":[{"vertex":…,"timestamp":…,"reason":{…}}]}` with why a step runs, as `rbuild::explain` has it, and with
//! `"result":"unchanged"` instead when it made what it had made before.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rbuild::{
    oci::sha256,
    progress::{Event, Stream, Vertex},
};
use serde_json::{Value, json};

use super::View;

struct Known {
    digest: String,
    name: String,
    started: String,
}

pub(crate) struct Json {
    out: Box<dyn Write + Send>,
    begun: SystemTime,
    known: BTreeMap<Vertex, Known>,
}

impl Json {
    pub(crate) fn new(out: Box<dyn Write + Send>, begun: SystemTime) -> Self {
        Self {
            out,
            begun,
            known: BTreeMap::new(),
        }
    }

    fn time(&self, now: Duration) -> String {
        jiff::Timestamp::try_from(self.begun + now)
            .map_or_else(|_| String::new(), |t| t.to_string())
    }

    fn digest(&self, vertex: Vertex) -> &str {
        self.known.get(&vertex).map_or("", |known| &known.digest)
    }

    fn vertex(&self, vertex: Vertex, more: Value) -> Value {
        let mut object = json!({"digest": self.digest(vertex)});
        if let Some(known) = self.known.get(&vertex) {
            object["name"] = known.name.clone().into();
            object["started"] = known.started.clone().into();
        }
        if let Value::Object(more) = more {
            for (key, value) in more {
                object[key] = value;
            }
        }
        json!({"vertexes": [object]})
    }

    fn status(&self, event: &Event, now: Duration) -> Value {
        let time = self.time(now);
        match event {
            Event::Started { vertex, .. } => self.vertex(*vertex, json!({})),
            Event::Output {
                vertex,
                stream,
                bytes,
            } => json!({"logs": [{
                "vertex": self.digest(*vertex),
                "stream": match stream { Stream::Stdout => 1, Stream::Stderr => 2 },
                "data": STANDARD.encode(bytes),
                "timestamp": time,
            }]}),
            Event::Status { vertex, text } => json!({"statuses": [{
                "id": text, "vertex": self.digest(*vertex), "timestamp": time, "completed": time,
            }]}),
            Event::Transfer {
                vertex,
                item,
                current,
                total,
            } => {
                let mut status = json!({
                    "id": item, "vertex": self.digest(*vertex), "current": current, "timestamp": time,
                });
                if let Some(total) = total {
                    status["total"] = (*total).into();
                    if current >= total {
                        status["completed"] = time.into();
                    }
                }
                json!({"statuses": [status]})
            }
            Event::Missed { vertex, reason } => json!({"explanations": [{
                "vertex": self.digest(*vertex), "timestamp": time, "reason": reason,
            }]}),
            Event::Unchanged { vertex } => json!({"explanations": [{
                "vertex": self.digest(*vertex), "timestamp": time, "result": "unchanged",
            }]}),
            Event::Cached { vertex } => {
                self.vertex(*vertex, json!({"completed": time, "cached": true}))
            }
            Event::Done { vertex, .. } => self.vertex(*vertex, json!({"completed": time})),
            Event::Failed { vertex, message } => {
                self.vertex(*vertex, json!({"completed": time, "error": message}))
            }
            Event::Canceled { vertex } => self.vertex(
                *vertex,
                json!({"completed": time, "error": "context canceled"}),
            ),
            Event::Warning { text } => {
                json!({"warnings": [{"level": 1, "short": STANDARD.encode(text)}]})
            }
        }
    }
}

impl View for Json {
    fn event(&mut self, event: &Event, now: Duration) {
        if let Event::Started { vertex, name } = event {
            let digest = sha256(format!("vertex {} {name}", vertex.0).as_bytes());
            self.known.insert(
                *vertex,
                Known {
                    digest: digest.to_string(),
                    name: name.clone(),
                    started: self.time(now),
                },
            );
        }
        let mut line = self.status(event, now).to_string();
        line.push('\n');
        // A closed standard error must not stop a build.
        self.out.write_all(line.as_bytes()).ok();
        self.out.flush().ok();
    }

    fn tick(&mut self, _: Duration) {}

    fn finish(&mut self, _: Duration) {}
}
