use std::future::{Future as _, poll_fn};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::Waker;

use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig};

use super::*;

/// A connection on this machine, whose client uses this transport configuration.
async fn connected(transport: TransportConfig) -> (Endpoint, Endpoint, Connection, Connection) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into()).unwrap();
    let server = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    config.transport_config(Arc::new(transport));
    let client = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connecting = client.connect_with(config, server.local_addr().unwrap(), "localhost").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    (client, server, connected.unwrap(), accepted)
}

fn paced() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(Pacing::default()));
    transport
}

#[tokio::test]
async fn a_meter_reads_what_the_controller_knows() {
    const BYTES: usize = 2_000_000;
    let (_client, _server, ours, theirs) = connected(paced()).await;
    let meter = Meter::of(&ours).unwrap();
    assert!(meter.read(&ours).window >= 2_400);
    let sending = async {
        let mut stream = ours.open_uni().await.unwrap();
        stream.write_all(&vec![7; BYTES]).await.unwrap();
        stream.finish().unwrap();
        stream.stopped().await.unwrap();
    };
    let receiving = async {
        let mut stream = theirs.accept_uni().await.unwrap();
        stream.read_to_end(BYTES).await.unwrap().len()
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert_eq!(received, BYTES);
    let figures = meter.read(&ours);
    assert!(figures.acknowledged >= BYTES as u64, "{figures:?}");
    assert_eq!(figures.window, ours.stats().path.cwnd, "what quinn goes by");
    meter.set_paced(false);
    let controller = ours.congestion_state().into_any().downcast::<Controller>().unwrap();
    assert_eq!(congestion::Controller::window(&*controller), congestion::Controller::window(&controller.cubic));
}

#[tokio::test]
async fn what_is_under_way_can_be_waited_for() {
    let (_client, _server, ours, theirs) = connected(paced()).await;
    let meter = Meter::of(&ours).unwrap();
    let more = meter.read(&ours).in_flight + 5_000;
    let mut under_way = pin!(poll_fn(|cx| meter.poll_in_flight(&ours, more, cx)));
    let polled = under_way.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "nothing is");
    let mut stream = ours.open_uni().await.unwrap();
    let (written, ()) = tokio::join!(stream.write_all(&[7; 20_000]), under_way);
    written.unwrap();
    assert!(meter.shared.waiting.lock().is_none());
    drop(theirs);
}

#[tokio::test]
async fn a_connection_with_another_controller_has_no_meter() {
    let (_client, _server, ours, theirs) = connected(TransportConfig::default()).await;
    assert!(Meter::of(&ours).is_none() && Meter::of(&theirs).is_none());
}

#[tokio::test]
async fn what_is_hurried_may_leave_beyond_a_full_window_and_no_more() {
    let (_client, _server, ours, _theirs) = connected(paced()).await;
    let meter = Meter::of(&ours).unwrap();
    let mut controller = ours.congestion_state().into_any().downcast::<Controller>().unwrap();
    let window = controller.lasting_window();
    let now = Instant::now();
    congestion::Controller::on_sent(&mut *controller, now, window, 1);
    assert_eq!(congestion::Controller::window(&*controller), window);
    meter.hurry(200);
    let hurried = congestion::Controller::window(&*controller);
    assert!(hurried > window + 200 && hurried <= window * 3 / 2, "{hurried} of {window}");
    (0..100).for_each(|_| meter.hurry(1_000));
    assert!(congestion::Controller::window(&*controller) <= window * 3 / 2);
    for number in 2..6 {
        congestion::Controller::on_sent(&mut *controller, now, 1_200, number);
    }
    assert_eq!(congestion::Controller::window(&*controller), window, "it was sent");
}

#[tokio::test]
async fn what_was_lost_is_sent_again_before_the_window_shrinks() {
    let (_client, _server, ours, _theirs) = connected(paced()).await;
    let mut controller = ours.congestion_state().into_any().downcast::<Controller>().unwrap();
    let (now, full) = (Instant::now(), controller.lasting_window());
    congestion::Controller::on_sent(&mut *controller, now, full, 1);
    let packet = controller.packet;
    congestion::Controller::on_congestion_event(&mut *controller, now, now, false, packet);
    let in_flight = full - packet;
    assert!(controller.lasting_window() < in_flight, "the window shrank below what is under way");
    assert!(congestion::Controller::window(&*controller) >= in_flight + packet, "but the packet may leave");
    congestion::Controller::on_sent(&mut *controller, now, packet, 2);
    assert_eq!(congestion::Controller::window(&*controller), controller.lasting_window(), "once");
    congestion::Controller::on_congestion_event(&mut *controller, now, now, true, packet);
    assert_eq!(
        congestion::Controller::window(&*controller),
        controller.lasting_window(),
        "unless nothing arrives at all"
    );
}
