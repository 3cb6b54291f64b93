//! More layers than the kernel stacks.

use super::*;

#[test]
fn no_stack_is_higher_than_the_kernel_takes_and_its_bottom_seldom_changes() {
    let mut bottoms = std::collections::BTreeSet::new();
    for n_layers in 0..3000 {
        let whole = n_whole(n_layers);
        assert!(n_layers == 0 || whole < n_layers, "{n_layers}");
        let stacked = n_layers - whole + usize::from(whole > 0);
        assert!(stacked <= MOST_STACKED, "{n_layers}: {stacked}");
        bottoms.insert(whole);
    }
    assert!(bottoms.len() <= 1 + 3000 / WHOLE_STEP, "{bottoms:?}");
}

#[test]
fn the_lower_of_many_layers_are_one_directory() {
    if !is_root() {
        return;
    }
    let (_dir, snapshots, blobs) = fixture(REAL);
    let n_layers = MOST_STACKED + 3;
    let layers = (0..n_layers).map(|n| {
        let mut changes = vec![file(&format!("f{n}"), "text")];
        // Each layer removes a file of the one before, but for the first and one at the cut.
        if n > 0 && n != WHOLE_STEP {
            changes.push(gone(&format!("f{}", n - 1)));
        }
        blobs.layer(changes)
    });
    let tree = LayerTree::of(layers.collect::<Vec<_>>()).unwrap();
    let stack = snapshots.stack(&tree).unwrap();
    assert_eq!(stack.len(), n_layers - WHOLE_STEP + 1);
    let names = |at: &Snapshot| {
        let entries = std::fs::read_dir(at.fs()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let last_below = format!("f{}", WHOLE_STEP - 1);
    assert_eq!(names(&stack[stack.len() - 1]), [last_below.as_str()]);
    // The one above it adds a file, that above removes it: a whiteout.
    assert_eq!(
        names(&stack[stack.len() - 2]),
        [format!("f{WHOLE_STEP}").as_str()]
    );
    assert_eq!(names(&stack[stack.len() - 3]).len(), 2);
    // All of it is there the next time.
    let n_made = snapshots.list().unwrap().len();
    assert_eq!(snapshots.stack(&tree).unwrap().len(), stack.len());
    assert_eq!(snapshots.list().unwrap().len(), n_made);
}
