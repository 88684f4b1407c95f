use super::*;

#[test]
fn what_was_acknowledged_is_read_back_over_several_openings() {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    run(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), kept).await.unwrap();
        let first = journal.append(&[entry(0, 1, b"a"), entry(1, 1, &[7; 5000])]).unwrap();
        let second = journal.append(&[entry(0, 2, b"")]).unwrap();
        assert_eq!((first, second), (Ticket(1), Ticket(2)));
        journal.wait(first).await.unwrap();
        assert_eq!(journal.advanced(first).await.unwrap(), second);
    });
    let mut expected = vec![(0, 1, b"a".to_vec()), (1, 1, vec![7; 5000]), (0, 2, Vec::new())];
    for round in 2..10_u64 {
        let kept = Rc::clone(&memo);
        let found = run(&disk, move |env| async move {
            let (groups, recovered) = recover(&env, &kept, round, None).await.unwrap();
            assert_eq!(recovered.torn, None);
            let journal = Journal::resume(&env, options(round), recovered, kept).await.unwrap();
            let bytes = vec![u8::try_from(round).unwrap(); 20_000];
            let ticket = journal.append(&[entry(9, round, &bytes)]).unwrap();
            journal.wait(ticket).await.unwrap();
            flat(&groups)
        });
        assert_eq!(found, expected);
        expected.push((9, round, vec![u8::try_from(round).unwrap(); 20_000]));
    }
}

#[test]
fn a_clean_end_is_found_again() {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    let end = run(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), kept).await.unwrap();
        for index in 1..=20 {
            journal.append(&[entry(0, index, &[1; 9000])]).unwrap();
        }
        let end = journal.close().await.unwrap();
        assert!(matches!(journal.append(&[entry(0, 9, b"")]), Err(Error::Closed)));
        assert_eq!(journal.durable(), Ticket(20));
        end
    });
    let found = run(&disk, move |env| async move {
        let (groups, recovered) = recover(&env, &memo, 2, Some(end)).await.unwrap();
        assert_eq!(recovered.end, end);
        groups.len()
    });
    assert_eq!(found, 20);
}

#[test]
fn files_are_recycled_when_everything_in_them_is_covered() {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    run(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), Rc::clone(&kept) as _).await.unwrap();
        for index in 1..=400 {
            journal.admit(9000, Admission::Client).await.unwrap();
            let ticket = journal.append(&[entry(0, index, &[1; 9000])]).unwrap();
            journal.wait(ticket).await.unwrap();
            journal.covered(PartitionId(0), Index(index - 1), &[]);
        }
        assert!(kept.first().number > FileNumber(40));
    });
    let files = disk.paths().len();
    assert!(files <= 4, "{files} files were used for a journal that needs one or two");
    let found = run(&disk, move |env| async move {
        let (groups, recovered) = recover(&env, &memo, 2, None).await.unwrap();
        assert_eq!(recovered.torn, None);
        flat(&groups)
    });
    assert_eq!(found.last().unwrap().1, 400);
}

#[test]
fn groups_larger_than_a_file_are_read_back_at_default_sizes() {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    let defaults = |run| Options::new(ID, Run(run));
    let pattern: Vec<u8> = (0..20_000_003_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let bytes = pattern.clone();
    run(&disk, move |env| async move {
        let journal = Journal::create(&env, defaults(1), kept).await.unwrap();
        journal.admit(bytes.len(), Admission::Client).await.unwrap();
        journal.append(&[entry(0, 1, b"small")]).unwrap();
        let ticket = journal.append(&[entry(0, 2, &bytes), entry(1, 1, &bytes[..99])]).unwrap();
        journal.wait(ticket).await.unwrap();
        assert!(journal.counts().writes <= 22, "whole frames of 1 MiB");
    });
    let found = run(&disk, move |env| async move {
        let (groups, recovered) = recover(&env, &memo, 2, None).await.unwrap();
        assert_eq!(recovered.torn, None);
        flat(&groups)
    });
    let small = pattern[..99].to_vec();
    assert!(found == [(0, 1, b"small".to_vec()), (0, 2, pattern), (1, 1, small)]);
}

#[test]
fn a_held_group_is_not_proved_before_it_is_released() {
    for release in [false, true] {
        let disk = MemoryDisk::new();
        let memo = Memo::new();
        let kept = Rc::clone(&memo);
        run(&disk, |env| async move {
            let journal = Journal::create(&env, options(1), kept).await.unwrap();
            journal.append(&[entry(0, 1, b"before")]).unwrap();
            let held = journal.append(&[entry(0, 2, &vec![2; 20_000])]).unwrap();
            journal.hold(held);
            // Holding back the proof holds nobody up.
            journal.wait(held).await.unwrap();
            for index in 3..6 {
                let ticket = journal.append(&[entry(0, index, b"after")]).unwrap();
                journal.wait(ticket).await.unwrap();
            }
            if release {
                journal.release(held);
            }
            let writes = journal.counts().writes;
            env.sleep(2 * options(1).seal_idle_after).await;
            // One closing frame at most, however long it stays held.
            env.sleep(20 * options(1).seal_idle_after).await;
            assert!(journal.counts().writes <= writes + 1, "{:?}", journal.counts());
        });
        run(&disk, move |env| async move {
            let (groups, recovered) = recover(&env, &memo, 2, None).await.unwrap();
            assert_eq!(groups.len(), 5);
            let proved = recovered.proved_below();
            assert!(groups[0].sequence < groups[1].sequence, "it is longer than a frame");
            assert!(groups[0].sequence < proved, "what came before it is proved all the same");
            assert_eq!(groups[1].sequence < proved, release);
            assert_eq!(groups[4].sequence < proved, release);
        });
    }
}

#[test]
fn what_a_closing_frame_could_not_prove_is_proved_after_the_next_opening() {
    let disk = MemoryDisk::new();
    let memo = Memo::new();
    let kept = Rc::clone(&memo);
    run(&disk, |env| async move {
        let journal = Journal::create(&env, options(1), kept).await.unwrap();
        journal.append(&[entry(0, 1, &vec![1; 20_000])]).unwrap();
        let held = journal.append(&[entry(0, 2, b"held")]).unwrap();
        journal.hold(held);
        let last = journal.append(&[entry(0, 3, &vec![3; 20_000])]).unwrap();
        journal.wait(last).await.unwrap();
        env.sleep(4 * options(1).seal_idle_after).await;
    });
    for round in [2, 3] {
        let kept = Rc::clone(&memo);
        let unproved = run(&disk, move |env| async move {
            let (groups, recovered) = recover(&env, &kept, round, None).await.unwrap();
            let proved = recovered.proved_below();
            let journal = Journal::resume(&env, options(round), recovered, kept).await.unwrap();
            env.sleep(4 * options(1).seal_idle_after).await;
            drop(journal);
            groups.iter().filter(|group| group.sequence >= proved).count()
        });
        assert_eq!(unproved > 0, round == 2, "{unproved} groups in round {round}");
    }
}
