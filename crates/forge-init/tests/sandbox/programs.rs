//! Programs: how they start, what they write, how they end.

use crate::client::{Client, Incoming, Sandbox, program, script, wait_until};
use forge_wire::frame::Lane;
use forge_wire::message::{Command, Ending};
use forge_wire::{Event, Request, WINDOW};
use std::time::Duration;

#[test]
fn output_comes_apart_and_the_exit_code_is_told() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let outcome = client.run(&script("echo out; echo err >&2; exit 7"));
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(outcome.report.ending, Ending::Exited(7));
    assert_eq!(outcome.report.output_bytes, 8);
    assert!(!outcome.report.truncated);
}

#[test]
fn a_program_gets_its_own_environment_folder_and_session() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let mut command = program(&["env"]);
    command.env.push(("ODD".into(), "a=b\nc".into()));
    let outcome = client.run(&command);
    assert_eq!(outcome.stdout, b"PATH=/usr/bin:/bin\nODD=a=b\nc\n");
    let text = "pwd; umask; [ $(ps -o sid= -p $$) = $$ ] && echo leads; \
                cat /proc/self/oom_score_adj; ls -l /proc/self/fd | grep -c -- '->'";
    let outcome = client.run(&script(text));
    // Three standard streams and the folder that `ls` reads.
    assert_eq!(
        String::from_utf8_lossy(&outcome.stdout),
        "/workspace\n0022\nleads\n500\n4\n"
    );
}

#[test]
fn no_program_can_become_a_worse_victim_than_pid_one() {
    let (sandbox, mut client) = Sandbox::claimed();
    let text = "score=-1000; while [ $score -le 1000 ] && \
                ! echo $score > /proc/self/oom_score_adj; do score=$((score+1)); done 2>/dev/null
                cat /proc/self/oom_score_adj";
    let outcome = client.run(&script(text));
    let number = |text: &str| text.trim().parse::<i32>().unwrap();
    let lowest = number(&String::from_utf8(outcome.stdout).unwrap());
    let own = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", sandbox.init_pid()));
    // One that the kernel would never end, PID 1 must not be.
    assert_eq!(number(&own.unwrap()), lowest.max(-999));
}

#[test]
fn no_thread_of_pid_one_can_be_slowed_down_or_starved() {
    let (sandbox, mut client) = Sandbox::claimed();
    let threads = std::fs::read_dir(format!("/proc/{}/task", sandbox.init_pid())).unwrap();
    let threads = threads.count();
    let text = "own=$(taskset -p $$ | sed 's/.*: //')
        for thread in $(ls /proc/1/task); do echo $thread
        prlimit --pid $thread --nofile=0:0 || prlimit --pid $thread --nofile || \
        taskset -p $own $thread > /dev/null || chrt -i -p 0 $thread || renice -n 19 -p $thread || \
        renice -n 19 -g $thread || ionice -c 3 -p $thread || ionice -c 3 -P $thread || continue
        echo reached; done 2>/dev/null; renice -n 19 -u $(id -u) || ionice -c 3 -u $(id -u) || echo end
        taskset -p $own $$ && renice -n $(nice) -p $$ && prlimit --pid $$ --nofile=64:64 || exit
        sleep 60 & taskset -p $own $! && prlimit --pid $! --nofile=64:64 && kill $! &&
        echo own";
    let outcome = client.run(&script(text));
    let text = String::from_utf8(outcome.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        !text.contains("reached") && text.ends_with("own\n"),
        "{text}"
    );
    let refused = lines.iter().position(|line| *line == "end").unwrap();
    assert_eq!((refused, threads), (4, 4), "{text}");
    client.ping();
    assert_eq!(
        client.run(&program(&["true"])).report.ending,
        Ending::Exited(0)
    );
}

#[test]
fn signal_settings_are_the_default_ones() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let outcome = client.run(&script("grep -E 'Sig(Blk|Ign)' /proc/self/status"));
    let text = String::from_utf8(outcome.stdout).unwrap();
    // Signals 32 and 33 are the C library's own and stay as they were outside.
    let own = 3 << 31;
    for line in text.lines() {
        let mask = line.split_whitespace().last().unwrap();
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & !own, 0, "{line}");
    }
}

#[test]
fn what_cannot_be_started_says_why() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let mut ending = |command: &Command| client.run(command).report.ending;
    assert_eq!(
        ending(&program(&["no-such-program"])),
        Ending::NotStarted(2)
    );
    assert_eq!(
        ending(&program(&["/usr/bin/nothing"])),
        Ending::NotStarted(2)
    );
    assert_eq!(ending(&program(&["/etc"])), Ending::NotStarted(2));
    assert_eq!(ending(&program(&["/usr"])), Ending::NotStarted(13));
    assert_eq!(ending(&program(&[])), Ending::NotStarted(22));
    let mut elsewhere = script("true");
    elsewhere.working_directory = "/nowhere".into();
    assert_eq!(ending(&elsewhere), Ending::NotStarted(2));
}

#[test]
fn standard_input_is_passed_on_and_ended() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let mut command = program(&["cksum"]);
    command.stdin = true;
    let (exec, _) = client.start(&command);
    let piece = vec![b'x'; 128 * 1024];
    let total = 40 * piece.len() as u64;
    let (mut sent, mut taken) = (0, 0);
    while sent < total {
        while sent + piece.len() as u64 - taken > WINDOW {
            taken = client.wait_for(|event| match event {
                Event::StdinTaken { exec: id, offset } if *id == exec => Some(*offset),
                _ => None,
            });
        }
        client.send_data(exec, Lane::Stdin, sent, &piece);
        sent += piece.len() as u64;
    }
    client.send(&Request::StdinEnd { exec });
    let outcome = client.finish(exec);
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(text.trim().ends_with(&total.to_string()), "{text}");
    // Without standard input, it is at its end from the start.
    assert_eq!(client.run(&program(&["cat"])).stdout, b"");
}

#[test]
fn input_that_nobody_reads_does_not_stall_the_client() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let mut command = script("exec 0<&-; read x < /tmp/go");
    command.stdin = true;
    client.run(&program(&["mkfifo", "/tmp/go"]));
    let (exec, _) = client.start(&command);
    let piece = vec![0; 256 * 1024];
    for index in 0..4 {
        client.send_data(exec, Lane::Stdin, index * piece.len() as u64, &piece);
    }
    let all = 4 * piece.len() as u64;
    client.wait_for(|event| (*event == Event::StdinTaken { exec, offset: all }).then_some(()));
    client.run(&script("echo > /tmp/go"));
    assert_eq!(client.exited(exec).ending, Ending::Exited(0));
}

#[test]
fn a_signal_on_request_is_told_from_any_other() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let (exec, _) = client.start(&program(&["sleep", "1000"]));
    client.send(&Request::Signal { exec, signal: 15 });
    assert_eq!(client.exited(exec).ending, Ending::Killed);
    let outcome = client.run(&script("kill -KILL $$"));
    assert_eq!(outcome.report.ending, Ending::Signalled(9));
    // A real-time signal.
    let outcome = client.run(&script("kill -40 $$"));
    assert_eq!(outcome.report.ending, Ending::Signalled(40));
    // The whole group gets it; a program that handles it ends in its own way.
    let text = "trap 'echo got; exit 3' USR1; sleep 1000 & echo ready; wait";
    let (exec, _) = client.start(&script(text));
    assert!(matches!(client.receive(), Some(Incoming::Data(_))));
    client.send(&Request::Signal { exec, signal: 10 });
    assert!(matches!(client.receive(), Some(Incoming::Data(_))));
    assert_eq!(client.exited(exec).ending, Ending::Exited(3));
    client.send(&Request::Signal {
        exec: 99,
        signal: 9,
    });
    client.wait_for(|event| (*event == Event::UnknownExec { exec: 99 }).then_some(()));
}

#[test]
fn an_exec_does_not_wait_for_a_background_process_that_holds_its_output() {
    let (sandbox, mut client) = Sandbox::claimed();
    let outcome = client.run(&script("sleep 1000 & echo done"));
    assert_eq!(outcome.stdout, b"done\n");
    assert_eq!(outcome.report.ending, Ending::Exited(0));
    assert_eq!(sandbox.processes().len(), 1);
    // One that never stops writing does not hold the report up either.
    let outcome = client.run(&script("yes & sleep 0.01"));
    assert_eq!(outcome.report.ending, Ending::Exited(0));
    assert_eq!(client.kill_all(), 0);
}

/// What `seq 1 count` writes, without holding it.
struct Numbers {
    next: u64,
    line: Vec<u8>,
}

impl Numbers {
    fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.line.is_empty() {
                self.line = format!("{}\n", self.next).into_bytes();
                self.next += 1;
            }
            let count = bytes.len().min(self.line.len());
            assert!(bytes[..count] == self.line[..count], "before {}", self.next);
            self.line.drain(..count);
            bytes = &bytes[count..];
        }
    }
}

/// Takes output until `exec` has ended; gives the bytes taken.
fn take_numbers(client: &mut Client, exec: u64, numbers: &mut Numbers, mut have: u64) -> u64 {
    loop {
        match client.receive() {
            Some(Incoming::Data(data)) => {
                assert_eq!(data.offset, have);
                have += data.bytes.len() as u64;
                numbers.check(&data.bytes);
                client.send(&Request::OutputTaken { exec, offset: have });
            }
            Some(Incoming::Event(Event::Exited { report, .. })) => {
                assert_eq!(report.ending, Ending::Exited(0));
                assert_eq!(report.output_bytes, have);
                return have;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn much_output_waits_for_the_client_and_none_is_lost() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let (exec, _) = client.start(&program(&["seq", "1", "24000000"]));
    let mut numbers = Numbers {
        next: 1,
        line: Vec::new(),
    };
    let mut have = 0;
    while have < WINDOW {
        let Some(Incoming::Data(data)) = client.receive() else {
            panic!("no output");
        };
        have += data.bytes.len() as u64;
        numbers.check(&data.bytes);
    }
    // Nothing of it is acknowledged: the window is used up, and no more comes.
    assert_eq!(have, WINDOW);
    assert_eq!(client.receive_within(Duration::from_millis(100)), Err(()));
    client.ping();
    client.send(&Request::OutputTaken { exec, offset: have });
    let all = take_numbers(&mut client, exec, &mut numbers, have);
    assert!(all > 200_000_000);
}

#[test]
fn output_is_resumed_after_a_reconnect() {
    let (sandbox, mut client) = Sandbox::claimed();
    let (exec, _) = client.start(&program(&["seq", "1", "2000000"]));
    let mut numbers = Numbers {
        next: 1,
        line: Vec::new(),
    };
    let mut have = 0;
    for round in 0..5 {
        for _ in 0..3 {
            let Some(Incoming::Data(data)) = client.receive() else {
                panic!("no output");
            };
            assert_eq!(data.offset, have);
            have += data.bytes.len() as u64;
            numbers.check(&data.bytes);
            if round % 2 == 0 {
                client.send(&Request::OutputTaken { exec, offset: have });
            }
        }
        drop(client);
        client = sandbox.reconnect();
        client.resume(exec, have, have);
    }
    let all = take_numbers(&mut client, exec, &mut numbers, have);
    // The end is told again, until it is forgotten.
    drop(client);
    let mut client = sandbox.reconnect();
    client.resume(exec, all, all);
    assert_eq!(client.exited(exec).ending, Ending::Exited(0));
    client.send(&Request::Forget { exec });
    client.send(&Request::Resume {
        exec,
        from: 0,
        taken: 0,
    });
    client.wait_for(|event| (*event == Event::UnknownExec { exec }).then_some(()));
}

#[test]
fn an_exec_ends_while_nobody_is_connected() {
    let (sandbox, mut client) = Sandbox::claimed();
    client.run(&program(&["mkfifo", "/tmp/go"]));
    let (exec, _) = client.start(&script("echo before; read x < /tmp/go; echo after; exit 5"));
    drop(client);
    std::fs::write(sandbox.path("/tmp/go"), "x\n").unwrap();
    wait_until("the program ends", || {
        sandbox.processes().is_empty().then_some(())
    });
    let mut client = sandbox.reconnect();
    client.send(&Request::Resume {
        exec,
        from: 0,
        taken: 0,
    });
    let outcome = client.finish(exec);
    assert_eq!(outcome.stdout, b"before\nafter\n");
    assert_eq!(outcome.report.ending, Ending::Exited(5));
}

#[test]
fn output_past_its_limit_ends_everything() {
    let (sandbox, mut client) = Sandbox::claimed();
    let (other, _) = client.start(&program(&["sleep", "1000"]));
    let mut command = script("setsid sleep 1000 & exec yes");
    command.output_limit = 100_001;
    let outcome = client.run(&command);
    assert_eq!(outcome.stdout.len(), 100_001);
    assert_eq!(outcome.stdout, b"y\n".repeat(50_001)[..100_001]);
    assert_eq!(outcome.report.ending, Ending::OutputLimit);
    assert!(outcome.report.truncated);
    assert!(outcome.report.output_bytes > 100_001);
    assert_eq!(client.exited(other).ending, Ending::OutputLimit);
    client.ping();
    assert_eq!(sandbox.processes(), Vec::<i32>::new());
    // As much as is allowed is not too much.
    let mut command = program(&["printf", "12345"]);
    command.output_limit = 5;
    let outcome = client.run(&command);
    assert_eq!(outcome.report.ending, Ending::Exited(0));
    assert!(!outcome.report.truncated);
}

#[test]
fn lanes_that_change_with_every_byte_stay_in_order() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let text = "i=0; while [ $i -lt 2000 ]; do printf o; printf e >&2; i=$((i+1)); done";
    let outcome = client.run(&script(text));
    assert_eq!(outcome.stdout, b"o".repeat(2000));
    assert_eq!(outcome.stderr, b"e".repeat(2000));
}

#[test]
fn too_many_programs_at_once_are_refused_and_not_queued() {
    let (_sandbox, mut client) = Sandbox::claimed();
    let execs: Vec<u64> = (0..64)
        .map(|_| client.start(&program(&["sleep", "1000"])).0)
        .collect();
    let refused = client.run(&program(&["true"]));
    assert_eq!(refused.report.ending, Ending::NotStarted(11));
    assert_eq!(client.kill_all(), 0);
    for exec in execs {
        assert_eq!(client.exited(exec).ending, Ending::Killed);
    }
    assert_eq!(
        client.run(&program(&["true"])).report.ending,
        Ending::Exited(0)
    );
}
