//! What the sources of a copy name.

use super::*;

#[test]
fn a_source_that_is_a_link_is_followed() {
    let source = "file real 0644 0 0 x\nsymlink link 0777 0 0 real\nsymlink abs 0777 0 0 /real\nfile d/in 0644 0 0 y\n\
                  symlink dl 0777 0 0 d\nsymlink d/up 0777 0 0 ../real\nsymlink dang 0777 0 0 nowhere";
    check(&op(&["link"], "/a"), source, "", "file a 0644 0 0 x");
    check(&op(&["abs"], "/a/"), source, "", "file a/abs 0644 0 0 x");
    check(&op(&["dl/in"], "/a"), source, "", "file a 0644 0 0 y");
    check(&op(&["d/up"], "/a"), source, "", "file a 0644 0 0 x");
    check(
        &op(&["dl"], "/a"),
        source,
        "",
        "file a/in 0644 0 0 y\nsymlink a/up 0777 0 0 ../real",
    );
    assert_eq!(
        fails(&op(&["dang"], "/a"), source, ""),
        "\"/dang\": not found"
    );
    let mut all = op(&["."], "/a");
    all.exclude = vec!["d*/**".to_owned(), "d".to_owned(), "dl".to_owned()];
    check(
        &all,
        source,
        "",
        "file a/real 0644 0 0 x\nsymlink a/link 0777 0 0 real\nsymlink a/abs 0777 0 0 /real\n\
         symlink a/dang 0777 0 0 nowhere",
    );
}

#[test]
fn what_is_missing_is_named_with_a_suggestion() {
    let error = run(&op(&["src/mian.c"], "/"), "file src/main.c 0644 0 0 x", "").unwrap_err();
    assert_eq!(error.to_string(), "\"/src/mian.c\": not found");
    assert_eq!(error.hint().unwrap(), "did you mean /src/main.c?");
    let error = run(&op(&["scr/main.c"], "/"), "file src/main.c 0644 0 0 x", "").unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean /src/main.c?");
    let error = run(&op(&["zzzz"], "/"), "file src/main.c 0644 0 0 x", "").unwrap_err();
    assert_eq!(error.hint(), None);
}

#[test]
fn wildcards_match_as_in_go() {
    let source = "file src/.hidden 0644 0 0 h\nfile src/a.txt 0644 0 0 a\nfile src/b.md 0644 0 0 b\n\
                  file src/sub/c.txt 0644 0 0 c\nfile src/sub/deep/d.txt 0644 0 0 d\nfile [x] 0644 0 0 x\n\
                  symlink dl 0777 0 0 src";
    for (pattern, expected) in [
        ("src/*.txt", "file w/a.txt 0644 0 0 a"),
        (
            "src/[ab].*",
            "file w/a.txt 0644 0 0 a\nfile w/b.md 0644 0 0 b",
        ),
        ("src/?.txt", "file w/a.txt 0644 0 0 a"),
        (
            "src/s*",
            "file w/c.txt 0644 0 0 c\nfile w/deep/d.txt 0644 0 0 d",
        ),
        ("src/*/*.txt", "file w/c.txt 0644 0 0 c"),
        ("dl/*.md", "file w/b.md 0644 0 0 b"),
        ("nomatch*", ""),
        ("[x]", ""),
        ("[[]x]", "file w/[x] 0644 0 0 x"),
        ("src/a.txt/*", ""),
    ] {
        check(&op(&[pattern], "/w/"), source, "", expected);
    }
    assert_eq!(
        fails(&op(&["nodir/*"], "/w/"), source, ""),
        "\"/nodir\": not found"
    );
    assert_eq!(
        fails(&op(&["a["], "/w/"), source, ""),
        "syntax error in pattern: \"a[\""
    );
}

#[test]
fn several_sources_without_a_slash_overwrite_each_other() {
    check(
        &op(&["a", "b"], "/n"),
        "file a 0644 0 0 a\nfile b 0600 0 0 b",
        "",
        "file n 0600 0 0 b",
    );
    assert_eq!(
        fails(
            &op(&["f", "d"], "/n"),
            "file f 0644 0 0 a\ndir d 0755 0 0",
            ""
        ),
        "cannot copy to non-directory: /n"
    );
}

#[test]
fn excluded_paths_are_left_out() {
    let source = "file src/.hidden 0644 0 0 h\nfile src/a.txt 0644 0 0 a\nfile src/b.md 0644 0 0 b\n\
                  dir src/sub 0711 0 0\nfile src/sub/c.txt 0644 0 0 c\nfile src/sub/deep/e.md 0644 0 0 e";
    let exclude = |sources: &[&str], patterns: &[&str], expected: &str| {
        let mut copy = op(sources, "/e/");
        copy.exclude = patterns.iter().map(|p| (*p).to_owned()).collect();
        check(&copy, source, "", expected);
    };
    exclude(
        &["src"],
        &["*.md", "sub"],
        "file e/.hidden 0644 0 0 h\nfile e/a.txt 0644 0 0 a",
    );
    exclude(
        &["src"],
        &["**/*.md", ".*"],
        "file e/a.txt 0644 0 0 a\ndir e/sub 0711 0 0\nfile e/sub/c.txt 0644 0 0 c\ndir e/sub/deep 0755 0 0",
    );
    exclude(
        &["src"],
        &["*", "!sub/deep"],
        "dir e/sub 0711 0 0\nfile e/sub/deep/e.md 0644 0 0 e",
    );
    exclude(&["src/a.txt"], &["a.txt"], "file e/a.txt 0644 0 0 a");
    exclude(&["src"], &["$X", "*"], "dir e 0755 0 0");
}

#[test]
fn parents_are_kept_below_the_pivot() {
    let source = "dir src 0700 1 2\nfile src/a.txt 0644 0 0 a\ndir src/sub 0711 3 4\ndir src/sub/deep 0701 0 0\n\
                  file src/sub/deep/d.txt 0644 0 0 d\nfile src/sub/deep/e.md 0644 0 0 e";
    let parents = |sources: &[&str], expected: &str| {
        let mut copy = op(sources, "/p/");
        copy.parents = true;
        check(&copy, source, "", expected);
    };
    parents(
        &["src/a.txt", "./src/sub/deep/d.txt"],
        "dir p/src 0700 1 2\nfile p/src/a.txt 0644 0 0 a\ndir p/src/sub 0711 3 4\ndir p/src/sub/deep 0701 0 0\n\
         file p/src/sub/deep/d.txt 0644 0 0 d",
    );
    parents(
        &["src/./sub/deep/d.txt"],
        "dir p/sub 0711 3 4\ndir p/sub/deep 0701 0 0\nfile p/sub/deep/d.txt 0644 0 0 d",
    );
    parents(
        &["src/**/*.md"],
        "dir p/src 0700 1 2\ndir p/src/sub 0711 3 4\ndir p/src/sub/deep 0701 0 0\nfile p/src/sub/deep/e.md 0644 0 0 e",
    );
    parents(
        &["src/s*/./deep"],
        "dir p/deep 0701 0 0\nfile p/deep/d.txt 0644 0 0 d\nfile p/deep/e.md 0644 0 0 e",
    );
    parents(&["src/**/nothing"], "dir p 0755 0 0");
    // As in BuildKit, where all of the source is there: what the wildcard in front of a pivot matches comes along.
    parents(&["src/*/./*.md"], "file p/a.txt 0644 0 0 a");
    let mut copy = op(&["src/nothing"], "/p/");
    copy.parents = true;
    assert_eq!(fails(&copy, source, ""), "\"/src/nothing\": not found");
}

#[test]
fn hard_links_within_a_source_stay_hard_links() {
    let source =
        "file h/a 0644 0 0 one\nhardlink h/b h/a\nhardlink h/sub/c h/a\nfile h/d 0644 0 0 solo";
    check(
        &op(&["h"], "/h"),
        source,
        "",
        "file h/a 0644 0 0 one\nhardlink h/b h/a\nhardlink h/sub/c h/a\nfile h/d 0644 0 0 solo",
    );
    check(
        &op(&["h/a", "h/b"], "/two/"),
        source,
        "",
        "file two/a 0644 0 0 one\nfile two/b 0644 0 0 one",
    );
}

#[test]
fn special_files_are_kept_and_sockets_become_files() {
    check(
        &op(&["t"], "/t"),
        "fifo t/p 0640 0 0\nsocket t/s 0755 0 0\nchar t/c 0666 0 0 1,3\nblock t/b 0660 0 6 7,1\n\
         file t/f 4711 0 0 +security.capability=cap x",
        "",
        "fifo t/p 0640 0 0\nfile t/s 0755 0 0\nchar t/c 0666 0 0 1,3\nblock t/b 0660 0 6 7,1\n\
         file t/f 4711 0 0 +security.capability=cap x",
    );
}

#[test]
fn inline_files_are_named_by_their_word() {
    let mut copy = op(&["f"], "/d/");
    copy.sources.push(CopySource::Inline {
        name: "EOF".to_owned(),
        content: "hi\n".to_owned(),
    });
    check(
        &copy,
        "file f 0644 0 0 x",
        "",
        "file d/f 0644 0 0 x\nfile d/EOF 0644 0 0 hi\\n",
    );
}

#[test]
fn fetched_files_and_checkouts_go_by_their_own_rules() {
    let file: Arc<dyn Tree> = Arc::new(MemoryTree::parse("file f.txt 0600 0 0 x"));
    let checkout: Arc<dyn Tree> = Arc::new(MemoryTree::parse("file a 0644 0 0 a"));
    let mut copy = op(&[], "/d");
    copy.verb = CopyVerb::Add;
    copy.sources = vec![
        CopySource::Url("https://h/x/f.txt?q=1".to_owned()),
        CopySource::Git("https://h/x.git".to_owned()),
    ];
    let below: Arc<dyn Tree> = Arc::new(MemoryTree::parse("dir d 0755 0 0"));
    let copied = changes(&CopyRequest {
        op: &copy,
        trees: &[file, checkout],
        parent: &below,
        now: Timestamp::from_seconds(NOW),
        scratch: Path::new("/nonexistent"),
    })
    .unwrap();
    let changes = copied.changes.into_vec();
    let paths: Vec<_> = changes.iter().map(Change::path).collect();
    assert_eq!(paths, ["d", "d/a", "d/f.txt"].map(Path::new));
}

#[test]
fn file_names_of_urls_are_the_last_part_of_the_path() {
    for (url, name) in [
        ("https://h/a/b.tar?x=/y#z", "b.tar"),
        ("https://h/a/", "a"),
        ("https://h/", "__unnamed__"),
        ("https://h", "__unnamed__"),
        ("https://h?x", "__unnamed__"),
        ("https://h/a%20b", "a b"),
        ("https://h/100%", "100%"),
    ] {
        assert_eq!(url_file_name(url), name, "{url}");
    }
}
