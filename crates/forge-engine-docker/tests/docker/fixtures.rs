//! Tests of a task's author in sandboxes: there, whole, and not to be changed.

use forge_core::sandbox::{SPECIFICATION, TESTS};
use forge_core::{SandboxId, UserId};
use forge_engine::{Engine, EngineErrorKind, Fixtures, Inventory, ObjectKind};
use tar::EntryType;
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use crate::support::{Bench, both_ways, next_user, secret, shell};

/// A workspace with a place for tests, and no sandbox on it.
async fn workspace(bench: &Bench, part: &str, user: UserId) -> SandboxId {
    let id = bench.id(part);
    let mut spec = bench.workspace_spec(&id, user);
    spec.tests = true;
    let image = bench.image().await;
    bench.engine.create_workspace(&spec, &image).await.unwrap();
    id
}

fn archive(user: UserId, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        header.set_uid(user.uid().into());
        header.set_gid(user.gid().into());
        header.set_mtime(0);
        header
    };
    for folder in ["tests", "tests/sub"] {
        let mut header = header(EntryType::Directory, 0);
        builder
            .append_data(&mut header, folder, std::io::empty())
            .unwrap();
    }
    let mut link = header(EntryType::Symlink, 0);
    builder
        .append_link(&mut link, "tests/link", "sub/run.sh")
        .unwrap();
    for (name, contents) in files {
        let mut header = header(EntryType::Regular, contents.len());
        let path = format!("tests/{name}");
        builder
            .append_data(&mut header, path, &contents[..])
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn stream(archive: Vec<u8>) -> forge_engine::TarStream {
    Box::new(std::io::Cursor::new(archive))
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_are_the_same_whichever_way_they_came_and_nothing_changes_them() {
    both_ways(|bench| async move {
        let user = next_user();
        let id = workspace(&bench, "tests", user).await;
        let image = bench.image().await;
        let files = [("sub/run.sh", b"exit 3\n".to_vec())];
        let tar = stream(archive(user, &files));
        bench.engine.put_tests(&id, &image, tar).await.unwrap();
        let mut spec = bench.sandbox_spec(&id, user);
        spec.tests = true;
        let sandbox = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        let attested = &sandbox.attestation().read_only_mounts;
        for place in [TESTS, SPECIFICATION] {
            assert!(attested.iter().any(|mount| mount == place), "{attested:?}");
        }
        let list = "cd tests && stat -c '%n %u %g %a %F' . sub sub/run.sh link && \
                    stat -c %Y sub/run.sh && readlink link && cat link";
        let own = format!("{} {}", user.uid(), user.gid());
        let expected = format!(
            ". {own} 755 directory\nsub {own} 755 directory\nsub/run.sh {own} 755 regular file\n\
             link {own} 777 symbolic link\n0\nsub/run.sh\nexit 3\n"
        );
        let seen = shell(&*sandbox, list).await;
        assert_eq!(seen.stdout, expected, "{seen:?}");
        for forbidden in [
            "echo x > tests/sub/run.sh",
            "touch tests/new",
            "rm tests/sub/run.sh",
            "rm tests/link",
            "chmod 000 tests",
            "mv tests elsewhere",
            "rmdir tests",
            "ln -sfn /tmp tests",
            "mv /workspace /tmp/w",
            "ln tests/sub/run.sh linked",
        ] {
            let done = shell(&*sandbox, forbidden).await;
            assert!(!done.succeeded(), "{forbidden} was allowed: {done:?}");
        }
        assert_eq!(shell(&*sandbox, list).await.stdout, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_that_come_later_appear_in_a_sandbox_that_runs() {
    both_ways(|bench| async move {
        let user = next_user();
        let id = workspace(&bench, "late", user).await;
        let image = bench.image().await;
        let mut spec = bench.sandbox_spec(&id, user);
        spec.tests = true;
        let sandbox = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        let empty = shell(&*sandbox, "ls -A tests && ! touch tests/x").await;
        assert!(empty.succeeded() && empty.stdout.is_empty(), "{empty:?}");
        let tar = stream(archive(user, &[("a", b"text".to_vec())]));
        bench.engine.put_tests(&id, &image, tar).await.unwrap();
        let seen = shell(&*sandbox, "cat tests/a; touch tests/x || echo closed").await;
        assert_eq!(seen.stdout, "textclosed\n", "{seen:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_megabytes_and_two_thousand_files_arrive_whole() {
    both_ways(|bench| async move {
        let user = next_user();
        let id = workspace(&bench, "bulk", user).await;
        let image = bench.image().await;
        let names: Vec<String> = (0..2000).map(|number| format!("sub/{number}")).collect();
        let mut files: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), name.clone().into_bytes()))
            .collect();
        files.push(("large", vec![7; 64 << 20]));
        let tar = stream(archive(user, &files));
        bench.engine.put_tests(&id, &image, tar).await.unwrap();
        let mut spec = bench.sandbox_spec(&id, user);
        spec.tests = true;
        let sandbox = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        let count = "ls tests/sub | wc -l; cat tests/sub/1999; \
                     tr -d '\\007' < tests/large | wc -c; wc -c < tests/large";
        let seen = shell(&*sandbox, count).await;
        assert_eq!(seen.stdout, "2000\nsub/19990\n67108864\n", "{seen:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_their_place_shows_in_what_pid_1_attests() {
    both_ways(|bench| async move {
        let user = next_user();
        let id = workspace(&bench, "link", user).await;
        let image = bench.image().await;
        let first = bench.sandbox_spec(&id, user);
        let sandbox = bench
            .engine
            .create(&first, &image, &secret())
            .await
            .unwrap();
        let left = shell(&*sandbox, "mkdir elsewhere && ln -s elsewhere tests").await;
        assert!(left.succeeded(), "{left:?}");
        let mut spec = bench.sandbox_spec(&id, user);
        spec.id = id.with_part("verify");
        spec.tests = true;
        let sandbox = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        let attested = &sandbox.attestation().read_only_mounts;
        assert!(!attested.iter().any(|mount| mount == TESTS), "{attested:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_goes_with_its_tests_and_has_none_unless_asked() {
    both_ways(|bench| async move {
        let user = next_user();
        let image = bench.image().await;
        let bare = bench.sandbox("bare").await;
        let mut spec = bench.sandbox_spec(bare.id(), user);
        spec.id = bare.id().with_part("verify");
        spec.tests = true;
        let refused = bench.engine.create(&spec, &image, &secret()).await;
        assert_eq!(refused.unwrap_err().kind, EngineErrorKind::NotFound);
        let tar = stream(archive(user, &[]));
        let refused = bench.engine.put_tests(bare.id(), &image, tar).await;
        assert_eq!(refused.unwrap_err().kind, EngineErrorKind::NotFound);

        let id = workspace(&bench, "gone", user).await;
        let tar = stream(archive(user, &[("a", b"text".to_vec())]));
        bench.engine.put_tests(&id, &image, tar).await.unwrap();
        let name = format!("swe-forge-tests-{id}");
        let there = async || {
            let found = bench.engine.list(Some(&bench.owner)).await.unwrap();
            let mut of_tests = found.into_iter().filter(|object| object.name == name);
            of_tests.next()
        };
        let found = there().await.unwrap();
        assert_eq!(found.kind, ObjectKind::Volume);
        assert_eq!(found.label("swe-forge.role"), Some("tests"));
        // A process that knows nothing of it removes it as well.
        let stranger = bench.stranger().await;
        for _ in 0..2 {
            stranger.destroy_workspace(&id).await.unwrap();
        }
        assert_eq!(there().await, None);
    })
    .await;
}

/// Puts tests there and gives up in the middle, as a process that is killed.
async fn break_off(bench: &Bench, id: &SandboxId, archive: &[u8]) {
    let image = bench.image().await;
    let half = std::io::Cursor::new(archive[..archive.len() / 2].to_vec());
    let killed = Err::<bytes::Bytes, _>(std::io::Error::other("killed"));
    let broken = StreamReader::new(futures::stream::iter([killed]));
    let tar: forge_engine::TarStream = Box::new(half.chain(broken));
    let result = bench.engine.put_tests(id, &image, tar).await;
    assert!(result.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_that_were_put_half_are_put_again_and_whole_ones_are_not() {
    both_ways(|bench| async move {
        let user = next_user();
        let id = workspace(&bench, "half", user).await;
        let image = bench.image().await;
        let large = |fill: u8| archive(user, &[("a", vec![fill; 300_000]), ("b", vec![fill; 3])]);
        let put = async |bytes: Vec<u8>| {
            bench
                .engine
                .put_tests(&id, &image, stream(bytes))
                .await
                .unwrap();
        };
        break_off(&bench, &id, &large(b'1')).await;
        put(large(b'1')).await;
        // Another attempt that has just the same to do, and does not know that it was done.
        put(large(b'2')).await;
        let mut spec = bench.sandbox_spec(&id, user);
        spec.tests = true;
        let sandbox = bench.engine.create(&spec, &image, &secret()).await.unwrap();
        let count = "wc -c < tests/a; cat tests/b; tr -d 1 < tests/a | wc -c";
        let seen = shell(&*sandbox, count).await;
        assert_eq!(seen.stdout, "300000\n1110\n", "{seen:?}");
    })
    .await;
}
