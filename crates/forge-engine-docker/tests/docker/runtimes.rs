//! Sandboxes under a runtime with a kernel of its own, where the engine has gVisor as `runsc`, with
//! `--network=none --host-uds=open`. Elsewhere these tests have nothing to look at and say so.

use std::future::Future;
use std::sync::Arc;

use forge_core::{EgressPolicy, PhaseName, Profile, SandboxNetwork, SandboxSpec};
use forge_engine::Engine;

use crate::support::{BOTH_WAYS, Bench, shell, with_bench_of};

const RUNTIME: &str = "runsc";

/// A bench whose sandboxes have the runtime, where the engine has it.
#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests must see what was not tested"
)]
async fn with_runtime<F>(test: impl FnOnce(Arc<Bench>) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = Some(RUNTIME.to_owned());
    let where_it_is = async |bench: Arc<Bench>| {
        let described = bench.engine.describe().await.unwrap();
        if described.runtimes.iter().any(|name| name == RUNTIME) {
            test(bench).await;
        } else {
            eprintln!("skipped: this engine has no runtime '{RUNTIME}'");
        }
    };
    with_bench_of(
        BOTH_WAYS[0],
        |options| options.runtime = runtime,
        where_it_is,
    )
    .await;
}

fn under_it(spec: &mut SandboxSpec) {
    spec.runtime = Some(RUNTIME.to_owned());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_has_another_kernel_than_the_machine_and_is_as_confined() {
    with_runtime(|bench| async move {
        let sandbox = bench.sandbox_with("kernel", under_it).await;
        let machine = bench.engine.describe().await.unwrap().kernel;
        let attested = sandbox.attestation();
        assert_ne!(attested.kernel, machine);
        assert!(attested.no_new_privileges && attested.read_only_root && attested.vsock_refused);
        assert!(attested.metadata_unreachable, "{attested:?}");
        assert_eq!(attested.interfaces, ["lo"]);
        assert_eq!(
            (attested.capabilities, attested.bounding_capabilities),
            (0, 0)
        );
        let script = "echo kept > kept && cat kept && ! touch /etc/x && ! cat /proc/1/mem";
        let done = shell(&*sandbox, script).await;
        assert_eq!(done.stdout, "kept\n", "{done:?}");
        assert_eq!(sandbox.kill_all().await.unwrap(), 0);
        let again = bench
            .engine
            .open(sandbox.id(), &crate::support::secret())
            .await;
        let done = shell(&*again.unwrap(), "cat kept").await;
        assert_eq!(done.stdout, "kept\n", "{done:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_egress_proxy_is_reached_and_nothing_else() {
    with_runtime(|bench| async move {
        let network = SandboxNetwork {
            policy: EgressPolicy::isolated(),
            phase: PhaseName::Setup,
            ports: Vec::new(),
            socks: false,
        };
        let networked = |spec: &mut SandboxSpec| {
            under_it(spec);
            spec.network = Some(network);
        };
        let sandbox = bench.sandbox_with("network", networked).await;
        assert!(sandbox.attestation().network_served);
        let line = "curl -sS -m 20 -o /dev/null -w '%{http_code}' -x http://127.0.0.1:3128 \
                    http://example.org/";
        let done = shell(&*sandbox, line).await;
        assert_eq!(done.stdout, "403", "{done:?}");
        let records = sandbox.egress().unwrap().take_records().await.unwrap();
        assert_eq!(records.connections[0].host, "example.org");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_setup_changes_is_kept() {
    with_runtime(|bench| async move {
        let build = |spec: &mut SandboxSpec| {
            under_it(spec);
            spec.profile = Profile::Build;
        };
        let sandbox = bench.sandbox_with("setup", build).await;
        let done = shell(&*sandbox, "echo installed > /usr/local/installed").await;
        assert!(done.succeeded(), "{done:?}");
        let image = bench.image().await;
        let changed = bench.engine.snapshot(sandbox.id(), &image).await.unwrap();
        assert_ne!(changed.runnable, image.runnable);
    })
    .await;
}
