use std::sync::{Arc, Mutex};

use rbuild::progress::Stream;

use super::*;

/// A place to write to that can be read afterwards.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Script {
    plain: Plain,
    page: Page,
    now: Duration,
}

impl Script {
    fn new() -> Self {
        let page = Page::default();
        Self {
            plain: Plain::new(Box::new(page.clone()), Colour::Off),
            page,
            now: Duration::ZERO,
        }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.plain.tick(self.now);
        self
    }

    fn event(&mut self, event: &Event) -> &mut Self {
        self.plain.event(event, self.now);
        self
    }

    fn started(&mut self, n: u64, name: &str) -> &mut Self {
        self.event(&Event::Started {
            vertex: Vertex(n),
            name: name.to_owned(),
        })
    }

    fn output(&mut self, n: u64, text: &str) -> &mut Self {
        self.event(&Event::Output {
            vertex: Vertex(n),
            stream: Stream::Stdout,
            bytes: text.as_bytes().to_vec(),
        })
    }

    fn done(&mut self, n: u64) -> &mut Self {
        self.event(&Event::Done {
            vertex: Vertex(n),
            elapsed: Duration::from_millis(400),
        })
    }

    fn page(&mut self) -> String {
        self.plain.finish(self.now);
        String::from_utf8(self.page.0.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn steps_one_after_the_other() {
    let mut script = Script::new();
    script
        .started(1, "[internal] load build definition from Dockerfile")
        .done(1)
        .started(2, "[build 1/2] FROM docker.io/library/busybox")
        .event(&Event::Status {
            vertex: Vertex(2),
            text: "resolve docker.io/library/busybox done".to_owned(),
        })
        .event(&Event::Cached { vertex: Vertex(2) })
        .started(3, "[build 2/2] RUN make")
        .after(312)
        .output(3, "cc -o app app.c\nno line br")
        .after(100)
        .output(3, "eak")
        .event(&Event::Failed {
            vertex: Vertex(3),
            message: "exit code: 1".to_owned(),
        });
    assert_eq!(
        script.page(),
        "\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.4s

#2 [build 1/2] FROM docker.io/library/busybox
#2 resolve docker.io/library/busybox done
#2 CACHED

#3 [build 2/2] RUN make
#3 0.312 cc -o app app.c
#3 0.412 no line break
#3 ERROR: exit code: 1
"
    );
}

#[test]
fn a_running_step_keeps_the_floor_for_a_while() {
    let mut script = Script::new();
    script
        .started(1, "[a 1/1] RUN a")
        .started(2, "[b 1/1] RUN b")
        .output(1, "a1\n")
        .output(2, "b1\n")
        .output(1, "a2\n")
        .after(1500)
        .output(1, "a3\n")
        .done(2)
        .done(1);
    assert_eq!(
        script.page(),
        "\
#1 [a 1/1] RUN a
#1 0.000 a1
#1 0.000 a2
#1 ...

#2 [b 1/1] RUN b
#2 0.000 b1
#2 DONE 0.4s

#1 [a 1/1] RUN a
#1 1.500 a3
#1 DONE 0.4s
"
    );
}

#[test]
fn steps_that_are_soon_over_do_not_interrupt_each_other() {
    let mut script = Script::new();
    script
        .started(1, "[a 1/1] COPY a /")
        .started(2, "[b 1/2] COPY b /")
        .after(200)
        .event(&Event::Cached { vertex: Vertex(2) })
        .started(3, "[b 2/2] RUN b")
        .event(&Event::Cached { vertex: Vertex(1) })
        .after(400)
        .started(4, "[c 1/1] COPY c /")
        .done(4)
        .done(3);
    assert_eq!(
        script.page(),
        "\
#2 [b 1/2] COPY b /
#2 CACHED

#1 [a 1/1] COPY a /
#1 CACHED

#3 [b 2/2] RUN b
#3 ...

#4 [c 1/1] COPY c /
#4 DONE 0.4s

#3 [b 2/2] RUN b
#3 DONE 0.4s
"
    );
}

#[test]
fn no_line_is_cut_and_nothing_moves_the_cursor() {
    let mut script = Script::new();
    let long = "x".repeat(10_000);
    script
        .started(1, "[1/1] RUN\nx\u{1b}[2J")
        .output(1, &format!("{long}\n\u{1b}[2Jwiped\n50%\r100%\n\u{ff}\n"))
        .done(1);
    let page = script.page();
    assert!(page.contains(&format!("#1 0.000 {long}\n#1 0.000 wiped\n#1 0.000 100%\n")));
    assert!(!page.contains('\u{1b}'));
}

#[test]
fn transfers_are_told_at_their_begin_and_end() {
    let mut script = Script::new();
    script.started(1, "[1/2] FROM a");
    for current in [0, 1_000_000, 2_000_000, 3_500_000] {
        script.after(100).event(&Event::Transfer {
            vertex: Vertex(1),
            item: "sha256:abc".to_owned(),
            current,
            total: Some(3_500_000),
        });
    }
    script.done(1);
    assert_eq!(
        script.page(),
        "\
#1 [1/2] FROM a
#1 sha256:abc 0B / 3.50MB 0.0s
#1 sha256:abc 3.50MB / 3.50MB 0.3s done
#1 DONE 0.4s
"
    );
}
