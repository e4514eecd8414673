//! Packets: who reaches whom, and as whom.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

mod ground;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    time::Duration,
};

use berth_network::{POD_INTERFACE, link_stats};
use ground::{Ground, NODE, Namespace, OUTSIDE, address, pod};

/// Nothing here leaves the machine; what has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// A listener in `at`; a connection there from `from` says who it is.
fn listener(at: &Namespace, address: Ipv4Addr) -> (TcpListener, SocketAddr) {
    at.run(|| {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    })
}

fn connect(from: &Namespace, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&to, patience))
}

fn peer_seen_by(listener: &TcpListener, mut client: TcpStream) -> IpAddr {
    let (mut server, peer) = listener.accept().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    server.write_all(b"hello").unwrap();
    let mut said = [0; 5];
    client.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
    peer.ip()
}

#[test]
fn pods_reach_each_other_under_their_own_addresses() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, _) = pod(&bridge, 2);
    let (b, attached) = pod(&bridge, 3);
    assert_eq!(attached.mtu, 1400);
    assert_eq!(attached.mac, "02:be:0a:53:00:03");
    let (server, at) = listener(&b, address(3));
    let client = connect(&a, at, PATIENCE).unwrap();
    assert_eq!(peer_seen_by(&server, client), address(2));
}

#[test]
fn a_pod_reaches_the_world_outside_as_its_node() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, _) = pod(&bridge, 2);
    let (server, at) = listener(&ground.outside, OUTSIDE);
    let client = connect(&a, at, PATIENCE).unwrap();
    assert_eq!(peer_seen_by(&server, client), NODE);

    let udp = ground
        .outside
        .run(|| UdpSocket::bind((OUTSIDE, 0)))
        .unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = udp.local_addr().unwrap();
    let sender = a.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    sender.send_to(b"x", to).unwrap();
    assert_eq!(udp.recv_from(&mut [0; 8]).unwrap().1.ip(), NODE);
}

#[test]
fn without_masquerade_a_pod_keeps_its_address() {
    let ground = Ground::new();
    let bridge = ground.open(berth_network::NetworkConfig {
        masquerade: false,
        ..Default::default()
    });
    bridge.ensure().unwrap();
    assert!(bridge.is_intact().unwrap());
    let (a, _) = pod(&bridge, 2);
    ground
        .outside
        .shell(&format!("ip route add 10.83.0.0/18 via {NODE}"));
    let (server, at) = listener(&ground.outside, OUTSIDE);
    let client = connect(&a, at, PATIENCE).unwrap();
    assert_eq!(peer_seen_by(&server, client), address(2));
}

#[test]
fn the_node_reaches_its_pods_and_they_reach_the_node() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, attached) = pod(&bridge, 2);
    let (server, at) = listener(&a, address(2));
    let client = connect(&ground.node, at, PATIENCE).unwrap();
    assert_eq!(peer_seen_by(&server, client), attached.gateway);
    let (server, at) = listener(&ground.node, attached.gateway);
    let client = connect(&a, at, PATIENCE).unwrap();
    assert_eq!(peer_seen_by(&server, client), address(2));
}

#[test]
fn a_neighbour_that_routes_the_subnet_to_the_node_reaches_no_pod() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, _) = pod(&bridge, 2);
    let (_server, at) = listener(&a, address(2));
    ground
        .outside
        .shell(&format!("ip route add 10.83.0.0/18 via {NODE}"));
    connect(&ground.outside, at, SILENCE).expect_err("the rule must drop it");
    // The positive control: the rule is what stops it.
    ground.node.shell("nft delete table inet berth0");
    connect(&ground.outside, at, PATIENCE).unwrap();
}

#[test]
fn a_pod_reaches_no_service_on_the_nodes_loopback() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, attached) = pod(&bridge, 2);
    a.shell(&format!(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
         ip route del local 127.0.0.0/8 table local dev lo
         ip route del local 127.0.0.1 table local dev lo
         ip route add 127.0.0.0/8 via {} src 10.83.0.2",
        attached.gateway
    ));
    let service = ground
        .node
        .run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
        .unwrap();
    let at = service.local_addr().unwrap();
    let sender = a.run(|| UdpSocket::bind((address(2), 0))).unwrap();
    let arrives = |patience| {
        sender.send_to(b"x", at).unwrap();
        service.set_read_timeout(Some(patience)).unwrap();
        service.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(!arrives(SILENCE), "the kernel drops it");
    // As kube-proxy does for its node ports.
    ground
        .node
        .shell("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    assert!(!arrives(SILENCE), "our own rule drops it");
    // The positive control: the rule is what stops it.
    ground.node.shell("nft delete table inet berth0");
    assert!(arrives(PATIENCE));
}

#[test]
fn a_pod_cannot_send_under_an_address_outside_the_subnet() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, _) = pod(&bridge, 2);
    a.shell("ip addr add 198.51.100.7/32 dev lo");
    let udp = ground
        .outside
        .run(|| UdpSocket::bind((OUTSIDE, 0)))
        .unwrap();
    udp.set_read_timeout(Some(SILENCE)).unwrap();
    let to = udp.local_addr().unwrap();
    let spoof = a.run(|| UdpSocket::bind("198.51.100.7:0")).unwrap();
    spoof.send_to(b"x", to).unwrap();
    udp.recv_from(&mut [0; 8])
        .expect_err("the reverse path is checked");
}

#[test]
fn loopback_works_in_the_pod_in_both_families() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, _) = pod(&bridge, 2);
    a.run(|| {
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        }
    });
}

#[test]
fn statistics_count_what_the_pod_received() {
    let ground = Ground::new();
    let bridge = ground.bridge();
    let (a, _) = pod(&bridge, 2);
    let before = link_stats(a.as_fd(), POD_INTERFACE).unwrap().unwrap();
    let udp = a.run(|| UdpSocket::bind((address(2), 0))).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = udp.local_addr().unwrap();
    let sender = ground.node.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    sender.send_to(&[7; 1000], to).unwrap();
    udp.recv_from(&mut [0; 2000]).unwrap();
    let after = link_stats(a.as_fd(), POD_INTERFACE).unwrap().unwrap();
    // Payload, UDP, IP and Ethernet headers, and perhaps an ARP exchange.
    let received = after.rx_bytes - before.rx_bytes;
    assert!((1042..1242).contains(&received), "{received}");
    assert_eq!(after.rx_errors, 0);
    assert_eq!(link_stats(a.as_fd(), "eth7").unwrap(), None);
}
