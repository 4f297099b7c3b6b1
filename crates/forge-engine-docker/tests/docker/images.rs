//! Images: prepared, imported, built, refused.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use bollard::query_parameters::RemoveImageOptions;
use forge_core::ownership::keys;
use forge_engine::images::{BuildOptions, ByteStream, ImportOptions};
use forge_engine::{Engine, EngineErrorKind, Inventory, ObjectKind};
use forge_engine_docker::DockerOptions;

use crate::support::{
    BOTH_WAYS, Bench, init_bytes, next_user, raw_docker, run, secret, shell, test_image,
    with_bench, with_bench_of,
};

fn archive(files: &[(&str, &[u8], u32)]) -> ByteStream {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, contents, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, path, *contents).unwrap();
    }
    Box::pin(Cursor::new(builder.into_inner().unwrap()))
}

/// An archive of folders, links and files, made in this order.
fn tree(entries: &[(&str, Entry<'_>)]) -> ByteStream {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(0);
        match entry {
            Entry::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, path, std::io::empty())
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target)
            }
            Entry::File(text) => {
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, path, text.as_bytes())
            }
        }
        .unwrap();
    }
    Box::pin(Cursor::new(builder.into_inner().unwrap()))
}

enum Entry<'a> {
    Folder,
    Link(&'a str),
    File(&'a str),
}

async fn import(bench: &Bench, name: &str, root: ByteStream) {
    let options = ImportOptions {
        tags: vec![name.to_owned()],
        ..ImportOptions::default()
    };
    let images = bench.engine.images().unwrap();
    images.import_image(root, &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_cannot_have_its_lists_of_users_where_a_task_writes() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let name = tag(&bench, "lists");
        let root = tree(&[
            ("workspace/etc", Entry::Folder),
            ("workspace/etc/passwd", Entry::File("root:x:0:0::/:/\n")),
            ("etc", Entry::Link("workspace/etc")),
        ]);
        import(&bench, &name, root).await;
        let prepared = bench.engine.prepare_image(&name).await;
        if let Ok(image) = &prepared {
            // The engine has made a folder of it.
            let task = bench.sandbox("lists").await;
            let pipes = "mkdir etc && mkfifo etc/passwd etc/group";
            let done = shell(&*task, pipes).await;
            assert!(done.succeeded(), "{done:?}");
            bench.engine.destroy(task.id()).await.unwrap();
            let id = task.id().with_part("next");
            let mut spec = bench.sandbox_spec(&id, next_user());
            spec.workspace = task.id().clone();
            let next = bench.engine.create(&spec, image, &secret()).await.unwrap();
            bench.engine.destroy(next.id()).await.unwrap();
            forget(&image.runnable).await;
        }
        forget(&name).await;
        if let Err(error) = prepared {
            assert_eq!(error.kind, EngineErrorKind::Rejected, "{error}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_something_else_where_our_additions_would_go_can_be_prepared() {
    let additions = |options: &mut DockerOptions| {
        options.certificates = Some(Arc::from(*b"AUTHORITY\n"));
        options.cargo_config = Some("[net]\noffline = true\n".to_owned());
    };
    with_bench_of(BOTH_WAYS[0], additions, |bench| async move {
        let cargo = (".cargo", Entry::Link("nowhere"));
        let local = "usr/local/share/ca-certificates";
        let roots = [
            tree(&[
                cargo,
                ("usr", Entry::Folder),
                ("usr/local", Entry::Link("nowhere")),
            ]),
            tree(&[
                ("usr/local/share", Entry::Folder),
                (local, Entry::File("text")),
            ]),
            tree(&[
                ("usr/local/share", Entry::Folder),
                (local, Entry::Link("loop")),
                ("usr/local/share/loop", Entry::Link("ca-certificates")),
            ]),
            tree(&[("usr/local/share", Entry::Folder)]),
        ];
        let mut prepared = Vec::new();
        for (number, root) in roots.into_iter().enumerate() {
            let name = tag(&bench, &format!("odd{number}"));
            import(&bench, &name, root).await;
            let result = bench.engine.prepare_image(&name).await;
            if let Ok(image) = &result {
                forget(&image.runnable).await;
            }
            forget(&name).await;
            prepared.push(result);
        }
        for result in prepared {
            result.unwrap();
        }
    })
    .await;
}

fn tag(bench: &Bench, part: &str) -> String {
    format!("swe-forge-test/{part}:{}", bench.run.short())
}

async fn forget(image: &str) {
    let options = RemoveImageOptions {
        force: true,
        ..RemoveImageOptions::default()
    };
    let removed = raw_docker().remove_image(image, Some(options), None).await;
    assert!(removed.is_ok(), "{image}: {removed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_says_what_to_do() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let error = bench
            .engine
            .prepare_image("swe-forge/python-base:no-such-tag")
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::NotFound);
        assert!(
            error.to_string().contains("swe-forge images build python"),
            "{error}"
        );
        let error = bench
            .engine
            .prepare_image("no-such-image:1")
            .await
            .unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::NotFound);
        let error = bench.engine.prepare_image("../info").await.unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Rejected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preparing_at_once_in_several_processes_gives_one_image() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let images = bench.engine.images().unwrap();
        let name = tag(&bench, "at-once");
        let options = ImportOptions {
            tags: vec![name.clone()],
            ..ImportOptions::default()
        };
        let root = archive(&[("file", b"text", 0o644)]);
        let id = images.import_image(root, &options).await.unwrap().id;
        let strangers = futures::future::join_all((0..4).map(|_| bench.stranger())).await;
        let engines = strangers.iter().chain([&bench.engine, &bench.engine]);
        let preparing = engines.map(|engine| engine.prepare_image(&name));
        let prepared = futures::future::join_all(preparing).await;
        let mut prepared = prepared.into_iter().map(Result::unwrap);
        let first = prepared.next().unwrap();
        assert!(prepared.all(|other| other == first));
        assert!(first.env.contains_key("PATH"));
        assert!(first.runnable.starts_with("swe-forge/prepared:"));
        let listed = images.list_images().await.unwrap();
        let of_it = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get("swe-forge.image.of") == Some(&id)
        };
        let made = listed.iter().filter(|image| of_it(&image.labels)).count();
        forget(&first.runnable).await;
        forget(&name).await;
        assert_eq!(made, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_with_one_static_program_runs() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let images = bench.engine.images().unwrap();
        let name = tag(&bench, "static");
        let second = tag(&bench, "static-again");
        let options = ImportOptions {
            tags: vec![name.clone(), second.clone()],
            labels: [(keys::ROLE.to_owned(), "test".to_owned())].into(),
            env: [
                ("PATH".to_owned(), "/tools".to_owned()),
                ("ODD".to_owned(), "a \"b\" $c \\".to_owned()),
                ("LD_PRELOAD".to_owned(), "/evil.so".to_owned()),
            ]
            .into(),
            working_directory: "/workspace".into(),
        };
        let init = init_bytes();
        let root = archive(&[("tools/program", &init, 0o755)]);
        let summary = images.import_image(root, &options).await.unwrap();
        assert!(summary.tags.contains(&name) && summary.tags.contains(&second));
        assert_eq!(summary.labels[keys::ROLE], "test");
        let listed = images.list_images().await.unwrap();
        assert!(listed.iter().any(|image| image.id == summary.id));

        let prepared = bench.engine.prepare_image(&name).await.unwrap();
        assert_eq!(prepared.env["ODD"], "a \"b\" $c \\");
        assert!(!prepared.env.contains_key("LD_PRELOAD"));
        let id = bench.id("static");
        let user = next_user();
        let workspace = bench.workspace_spec(&id, user);
        let engine = &bench.engine;
        engine
            .create_workspace(&workspace, &prepared)
            .await
            .unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let sandbox = engine.create(&spec, &prepared, &secret()).await.unwrap();
        let done = run(&*sandbox, &["/tools/program", "version"]).await;
        assert!(done.stdout.starts_with("forge-init"), "{done:?}");
        engine.destroy(&id).await.unwrap();

        forget(&prepared.runnable).await;
        images.remove_image(&second).await.unwrap();
        images.remove_image(&name).await.unwrap();
        images.remove_image(&name).await.unwrap();
        assert_eq!(images.inspect_image(&name).await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_an_image_declares_is_read_only_and_goes_with_the_sandbox() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let images = bench.engine.images().unwrap();
        let name = tag(&bench, "volume");
        let dockerfile = format!(
            "FROM {}\nCOPY file /data/\nVOLUME /data\nVOLUME /workspace\n",
            test_image()
        );
        let context = archive(&[
            ("Dockerfile", dockerfile.as_bytes(), 0o644),
            ("file", b"kept\n", 0o644),
        ]);
        let options = BuildOptions {
            tags: vec![name.clone()],
            ..BuildOptions::default()
        };
        let lines = Mutex::new(Vec::new());
        let progress = |line: &str| lines.lock().unwrap().push(line.to_owned());
        images
            .build_image(context, &options, &progress)
            .await
            .unwrap();
        let lines = lines.into_inner().unwrap();
        assert!(
            lines.iter().any(|line| line.contains("VOLUME /data")),
            "{lines:?}"
        );

        let prepared = bench.engine.prepare_image(&name).await.unwrap();
        let id = bench.id("volume");
        let user = next_user();
        let workspace = bench.workspace_spec(&id, user);
        let engine = &bench.engine;
        engine
            .create_workspace(&workspace, &prepared)
            .await
            .unwrap();
        let spec = bench.sandbox_spec(&id, user);
        let sandbox = engine.create(&spec, &prepared, &secret()).await.unwrap();
        let mounts = &sandbox.attestation().writable_mounts;
        assert!(!mounts.iter().any(|mount| mount == "/data"), "{mounts:?}");
        let done = shell(&*sandbox, "cat /data/file; touch /data/x").await;
        assert_eq!(done.stdout, "kept\n", "{done:?}");
        assert!(!done.succeeded(), "{done:?}");
        let nameless = nameless_volumes().await;
        assert_eq!(engine.list(Some(&bench.owner)).await.unwrap().len(), 4);
        // Also by a process that did not make it, and where the folder of the socket cannot go.
        let folder = bench.channels().pop().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "").unwrap();
        let stranger = bench.stranger().await;
        stranger.destroy(&id).await.unwrap_err();
        let left = engine.list(Some(&bench.owner)).await.unwrap();
        assert!(left.iter().all(|object| object.kind == ObjectKind::Volume));
        assert_eq!(left.len(), 2, "{left:?}");
        std::fs::remove_file(&folder).unwrap();
        stranger.destroy(&id).await.unwrap();
        engine.destroy_workspace(&id).await.unwrap();
        let left = engine.list(Some(&bench.owner)).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        assert!(nameless.is_empty(), "{nameless:?}");
        forget(&prepared.runnable).await;
        forget(&name).await;
    })
    .await;
}

/// Volumes without a name of this run's containers: none may ever be made.
async fn nameless_volumes() -> Vec<String> {
    use bollard::query_parameters::ListContainersOptions;
    let options = ListContainersOptions {
        all: true,
        filters: Some(
            [(
                "name".to_owned(),
                vec!["swe-forge-task-docker-test".to_owned()],
            )]
            .into(),
        ),
        ..ListContainersOptions::default()
    };
    let containers = raw_docker().list_containers(Some(options)).await.unwrap();
    containers
        .into_iter()
        .flat_map(|container| container.mounts.unwrap_or_default())
        .filter_map(|mount| mount.name)
        .filter(|name| name.len() == 64)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let images = bench.engine.images().unwrap();
        let context = archive(&[("Dockerfile", b"FROM scratch\nCOPY absent /\n", 0o644)]);
        let options = BuildOptions {
            tags: vec![tag(&bench, "broken")],
            ..BuildOptions::default()
        };
        let error = images
            .build_image(context, &options, &|_| ())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_registry_has_nothing() {
    with_bench(BOTH_WAYS[0], |bench| async move {
        let images = bench.engine.images().unwrap();
        let has = images.registry_has("127.0.0.1:1/nothing:1").await.unwrap();
        assert!(!has);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_prepared_with_another_init_goes_unless_it_is_used_and_can_come_again() {
    for sharing in BOTH_WAYS {
        with_bench(sharing, |bench| async move {
            let images = bench.engine.images().unwrap();
            let name = tag(&bench, "superseded");
            let options = ImportOptions {
                tags: vec![name.clone()],
                ..ImportOptions::default()
            };
            let root = archive(&[("file", b"text", 0o644)]);
            images.import_image(root, &options).await.unwrap();
            let with_init = |byte: u8| {
                let mut init = init_bytes().to_vec();
                init.push(byte);
                bench.stranger_with(move |options| options.init_binary.bytes = init.into())
            };
            let first = bench.engine.prepare_image(&name).await.unwrap();
            let labels = images.inspect_image(&first.runnable).await.unwrap();
            assert_eq!(labels.unwrap().labels[keys::HOLDER], "");

            let id = bench.id("superseded");
            let user = next_user();
            let workspace = bench.workspace_spec(&id, user);
            let spec = bench.sandbox_spec(&id, user);
            let second = with_init(1).await.prepare_image(&name).await.unwrap();
            let gone = images.inspect_image(&first.runnable).await.unwrap();
            assert_eq!(gone, None);

            let engine = &bench.engine;
            engine.create_workspace(&workspace, &first).await.unwrap();
            engine.create(&spec, &first, &secret()).await.unwrap();
            let gone = images.inspect_image(&second.runnable).await.unwrap();
            assert_eq!(gone, None);

            let third = with_init(2).await.prepare_image(&name).await.unwrap();
            let used = images.inspect_image(&first.runnable).await.unwrap();
            engine.destroy(&id).await.unwrap();
            for image in [&first.runnable, &third.runnable, &name] {
                forget(image).await;
            }
            assert!(used.is_some());
        })
        .await;
    }
}
