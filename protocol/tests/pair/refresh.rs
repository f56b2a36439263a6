//! A new token on the same connection, before the old one expires.

use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lanes;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{Action, Client, ClientState, Event, Options, RECORD_BYTES_MAX};
use lanecast_protocol::v1;
use lanecast_protocol::v1::frame::Body;
use lanecast_protocol::{codec, v1::Capability};

use crate::support::options;

const HOUR: u64 = 3600 * 1000;

/// A client and a node that does nothing but what the scenario says.
struct Scene {
    client: Client,
    now: Now,
    /// Each time that the application was asked for a token, and the code that it was told.
    asked: Vec<(u64, u32)>,
    /// RefreshToken frames: the id and the token.
    sent: Vec<(u32, String)>,
    /// What the node took.
    taken: Vec<String>,
}

impl Scene {
    fn new(options: Options) -> Self {
        let now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let client = Client::new(options);
        let mut scene = Self { client, now, asked: Vec::new(), sent: Vec::new(), taken: Vec::new() };
        scene.client.connect(now);
        scene.drain();
        scene
    }

    /// Welcomed with a token that lives so long; 0: for ever.
    fn welcomed(seed: u64, life_ms: u64) -> Self {
        let mut scene = Self::new(options(seed, "i"));
        scene.open(&[Capability::Refresh], life_ms);
        scene
    }

    fn open(&mut self, capabilities: &[Capability], life_ms: u64) {
        self.client.opened(self.now, "old".into(), true);
        let welcome = v1::Welcome {
            version: 1,
            capabilities: capabilities.iter().map(|capability| (*capability).into()).collect(),
            server_time_ms: self.node_ms(),
            token_expires_at_ms: if life_ms == 0 { 0 } else { self.node_ms() + life_ms },
            ..Default::default()
        };
        self.receive(1, Body::Welcome(welcome));
    }

    /// The node's clock is not the client's.
    fn node_ms(&self) -> u64 {
        self.now.wall_ms + 5 * HOUR
    }

    fn receive(&mut self, id: u32, body: Body) {
        for record in codec::records(codec::encode_body(id, body), RECORD_BYTES_MAX) {
            self.client.handle_record(self.now, None, record.unwrap());
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.client.poll_action() {
            if let Action::RenewToken { refused } = action {
                self.asked.push((self.now.monotonic_ms, refused));
            }
        }
        while let Some(output) = self.client.poll_output(self.now, Lanes::ALL) {
            for record in codec::records(output.record, RECORD_BYTES_MAX) {
                let frame = codec::decode(record.unwrap()).unwrap();
                match frame.body {
                    Some(Body::RefreshToken(refresh)) => self.sent.push((frame.id, refresh.token)),
                    // What else a living connection needs is not what these scenes are about.
                    Some(Body::Ping(ping)) => {
                        let pong = v1::Pong { stamp: ping.stamp, server_time_ms: self.node_ms() };
                        return self.receive(frame.id, Body::Pong(pong));
                    }
                    _ => {}
                }
            }
        }
        while let Some(event) = self.client.poll_event() {
            if let Event::TokenRefreshed(token) = event {
                self.taken.push(token);
            }
        }
    }

    fn advance(&mut self, ms: u64) {
        let until = self.now.monotonic_ms + ms;
        loop {
            let next = self.client.poll_timeout(self.now).unwrap_or(u64::MAX).clamp(self.now.monotonic_ms, until);
            let passed = next - self.now.monotonic_ms;
            self.now = Now { monotonic_ms: next, wall_ms: self.now.wall_ms + passed };
            if next == until {
                return self.drain();
            }
            self.client.handle_timeout(self.now);
            self.drain();
        }
    }

    /// Lets time pass until the application is asked once more; returns how long it took.
    fn until_asked(&mut self) -> u64 {
        let (since, asked) = (self.now.monotonic_ms, self.asked.len());
        while self.asked.len() == asked {
            let next = self.client.poll_timeout(self.now).expect("somebody is asked");
            assert!(next - since < 24 * HOUR, "nobody is asked");
            self.advance(next.saturating_sub(self.now.monotonic_ms).max(1));
        }
        self.now.monotonic_ms - since
    }

    fn renew(&mut self, token: &str) -> u32 {
        self.client.renewed(self.now, token.into());
        self.drain();
        let (id, sent) = self.sent.last().expect("the token is sent at once").clone();
        assert_eq!(sent, token);
        id
    }

    fn take(&mut self, id: u32, life_ms: u64) {
        let expires_at_ms = if life_ms == 0 { 0 } else { self.node_ms() + life_ms };
        self.receive(id, Body::TokenRefreshed(v1::TokenRefreshed { expires_at_ms }));
    }

    fn refuse(&mut self, id: u32, code: Code) {
        self.receive(id, Body::Error(v1::Error { code: code.number().into(), ..Default::default() }));
    }
}

#[test]
fn a_token_is_renewed_before_it_expires_again_and_again() {
    // LC-SDK-019
    let mut moments = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut scene = Scene::welcomed(seed, HOUR);
        for number in 0..3 {
            let after = scene.until_asked();
            assert!((HOUR - 90_001..=HOUR - 60_000).contains(&after), "{after} ms");
            moments.insert(after);
            let id = scene.renew(&format!("new {number}"));
            scene.take(id, HOUR);
        }
        assert_eq!(scene.taken, ["new 0", "new 1", "new 2"]);
        assert!(scene.asked.iter().all(|(_, refused)| *refused == 0));
        assert_eq!(scene.client.state(), ClientState::Connected);
    }
    assert!(moments.len() > 20, "clients do not ask together");
}

#[test]
fn the_lead_is_a_part_of_a_short_life() {
    // LC-SDK-019
    for seed in 0..20 {
        let after = Scene::welcomed(seed, 20_000).until_asked();
        assert!((17_000..=18_000).contains(&after), "{after} ms");
    }
}

#[test]
fn nobody_is_asked_where_it_is_of_no_use() {
    // LC-HS-020
    let mut eternal = Scene::welcomed(1, 0);
    eternal.advance(3 * HOUR);
    assert_eq!(eternal.asked, []);
    let mut not_served = Scene::new(options(1, "i"));
    not_served.open(&[], 20_000);
    not_served.client.refresh_token(not_served.now);
    not_served.advance(20_000);
    assert_eq!(not_served.asked, []);
    let mut fixed = Scene::new(Options { renews_tokens: false, ..options(1, "i") });
    fixed.open(&[Capability::Refresh], 20_000);
    fixed.advance(20_000);
    assert_eq!(fixed.asked, []);
}

#[test]
fn a_refusal_leaves_the_old_token_and_another_is_asked_for() {
    // LC-AUTH-021, LC-AUTH-022
    let mut scene = Scene::welcomed(1, HOUR);
    scene.until_asked();
    let id = scene.renew("bad");
    scene.refuse(id, Code::BadToken);
    assert_eq!(scene.client.state(), ClientState::Connected);
    let after = scene.until_asked();
    assert!((30_000..=45_000).contains(&after), "half of what is left: {after} ms");
    assert_eq!(scene.asked[1].1, u32::from(Code::BadToken.number()));
    let id = scene.renew("another user's");
    scene.refuse(id, Code::UserMismatch);
    scene.until_asked();
    let id = scene.renew("good");
    scene.take(id, HOUR);
    assert_eq!((scene.taken.as_slice(), scene.asked.len()), (["good".to_owned()].as_slice(), 3));
    scene.until_asked();
    assert_eq!(scene.asked[3].1, 0);
}

#[test]
fn what_cannot_be_had_is_not_asked_for_without_end() {
    // L9
    let mut scene = Scene::welcomed(1, HOUR);
    scene.until_asked();
    while scene.now.monotonic_ms < 1_000 + HOUR {
        scene.client.not_renewed(scene.now);
        scene.advance(100);
    }
    assert!((4..=9).contains(&scene.asked.len()), "{:?}", scene.asked);
    assert!(scene.asked.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 1_000), "{:?}", scene.asked);
    assert_eq!(scene.sent, []);
    // The node says when it is over, and then the next connection asks (LC-AUTH-022).
    scene.client.handle_closed(scene.now, Some(Code::TokenExpired.number()));
    assert_eq!(scene.client.state(), ClientState::Suspended { code: Code::TokenExpired.number().into() });
}

#[test]
fn a_provider_that_gives_the_same_token_again_is_not_asked_without_pause() {
    // L9
    let mut scene = Scene::welcomed(1, HOUR);
    let expires = scene.now.monotonic_ms + HOUR;
    while scene.now.monotonic_ms < expires {
        scene.advance(500);
        if scene.asked.len() > scene.sent.len() {
            let id = scene.renew("same");
            scene.take(id, expires - scene.now.monotonic_ms.min(expires - 1));
        }
    }
    assert!(scene.asked.len() < 10, "{:?}", scene.asked);
}

#[test]
fn an_application_or_node_that_is_silent_is_asked_again_and_a_late_answer_counts() {
    // LC-SDK-019
    let mut scene = Scene::welcomed(1, HOUR);
    scene.until_asked();
    let after = scene.until_asked();
    assert!(after > 10_000, "one refresh at a time: {after} ms");
    let late = scene.renew("late");
    scene.until_asked();
    scene.take(late, HOUR);
    assert_eq!(scene.taken, ["late"]);
    scene.client.renewed(scene.now, "unasked".into());
    scene.drain();
    assert_eq!(scene.sent.len(), 1, "what nobody waits for any more is not sent");
}

#[test]
fn the_application_may_ask_for_it() {
    let mut scene = Scene::welcomed(1, 0);
    scene.client.refresh_token(scene.now);
    scene.client.refresh_token(scene.now);
    scene.drain();
    assert_eq!(scene.asked.len(), 1, "one at a time");
    let id = scene.renew("more rights");
    scene.client.refresh_token(scene.now);
    scene.take(id, HOUR);
    assert_eq!((scene.asked.len(), scene.taken.as_slice()), (1, ["more rights".to_owned()].as_slice()));
    scene.client.refresh_token(scene.now);
    scene.drain();
    assert_eq!(scene.asked.len(), 2);
}

#[test]
fn a_node_that_says_it_does_not_serve_it_is_believed() {
    // LC-FRM-010
    let mut scene = Scene::welcomed(1, HOUR);
    scene.until_asked();
    let id = scene.renew("new");
    scene.refuse(id, Code::Unimplemented);
    scene.advance(2 * HOUR);
    assert_eq!(scene.asked.len(), 1);
}
