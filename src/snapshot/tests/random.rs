use super::*;

/// Steps of random file operations: what a later step sees is the same whether the upper directory was adopted or the layer was
/// unpacked, and both are what the first step saw.
#[test]
fn random_steps_come_out_as_they_were() {
    if !is_root() {
        return;
    }
    let (_at, snapshots, blobs) = fixture(REAL);
    let show = |overlay: &Overlay, script: &str| {
        let out = tempfile::NamedTempFile::new().unwrap();
        let script = format!(
            "{script}
             {{ find . -mindepth 1 -type d -printf '%p d %#m %U:%G\\n' | sort
             find . ! -type d -printf '%p %y %#m %U:%G %l links=%n\\n' | sort
             find . -type f -exec sha256sum {{}} + | sort; }} > {}",
            out.path().display()
        );
        run(overlay, &script).map(|()| std::fs::read_to_string(out.path()).unwrap())
    };
    // One more name for a file of lower layers is one in the step, and a file of its own afterwards.
    let without_links = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.split(" links=").next().unwrap_or_default());
        lines.map(str::to_owned).collect()
    };
    let mut state = 12345_u32;
    let mut pick = |choices: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % choices
    };
    let mut tree = blobs.tree([base()]);
    for round in 0..24 {
        if round % 12 == 0 {
            // More layers than this are too long for the options of mount(8).
            tree = blobs.tree([base()]);
        }
        let mut script = "set +e; exec 2>/dev/null\n".to_owned();
        for operation in 0..25 {
            let mut path = || {
                let mut path = ["a", "b", "data", "bin"][pick(4) as usize].to_owned();
                for _ in 0..pick(3) {
                    path = format!("{path}/{}", ["a", "b", "deep", "c"][pick(4) as usize]);
                }
                path
            };
            let (one, two) = (path(), path());
            let command = match pick(10) {
                0 => format!("rm -rf {one}\n"),
                1 => format!("mkdir -p {one}\n"),
                2 | 3 => format!("echo {round}.{operation} > {one}\n"),
                4 => format!("mv -T {one} {two}\n"),
                5 => format!("ln -T {one} {two}\n"),
                6 => format!("ln -sT {one} {two}\n"),
                7 => format!("chmod {} {one}\n", ["700", "644", "4755"][pick(3) as usize]),
                8 => format!("chown {} {one}\n", pick(5)),
                _ => format!("rm -rf {one}; mkdir {one}; echo {operation} > {one}/{operation}\n"),
            };
            script.push_str(&command);
        }
        script += "set -e\n";
        let mut overlay = snapshots.prepare(snapshots.stack(&tree).unwrap()).unwrap();
        let Some(saw) = show(&overlay, &script) else {
            return;
        };
        let led_to = after(&blobs, &tree, overlay.diff(&tree).unwrap());
        let below = snapshots.stack(&tree).unwrap();
        let id = ChainId(crate::oci::sha256(format!("round {round}").as_bytes()));
        let (adopted, remains) = overlay.adopt(id, None).unwrap();
        remains.remove().unwrap();
        let mut stack = vec![adopted];
        stack.extend(below);
        let on_adopted = snapshots.prepare(stack).unwrap();
        let on_unpacked = snapshots
            .prepare(snapshots.stack(&led_to).unwrap())
            .unwrap();
        let checkout = snapshots.checkout(&led_to).unwrap();
        let again = diff_upper(
            &checkout.root(),
            &checkout.owners(),
            &LayerTree::empty(),
            REAL,
        );
        let again = after(&blobs, &LayerTree::empty(), again.unwrap().changes);
        let adopted = show(&on_adopted, "").unwrap();
        assert_eq!(
            without_links(&adopted),
            without_links(&saw),
            "round {round}: {script}"
        );
        assert_eq!(
            show(&on_unpacked, "").unwrap(),
            adopted,
            "round {round}: {script}"
        );
        assert_eq!(listing(&again), listing(&led_to), "round {round}: {script}");
        tree = led_to;
    }
}
