//! The HTTP client of plugins, against a server on this machine.

use metagov_sdk::{Egress, Error, HttpClient, HttpError, Secret, prelude::*};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_json, header, method},
};

fn client() -> HttpClient {
    HttpClient::new(Egress::PublicAndLoopback)
}

async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(answer).mount(&server).await;
    server
}

#[tokio::test]
async fn json_goes_out_and_comes_back() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(header("authorization", "Bearer t0ken"))
        .and(header("x-key", "k"))
        .and(body_json(json!({"text": "hello"})))
        .respond_with(ResponseTemplate::new(201).set_body_json(json!({"id": 1})).insert_header("x-left", "9"))
        .mount(&server)
        .await;
    let request = client().post(&server.uri()).bearer(&Secret::new("t0ken")).header("x-key", "k");
    let answer = request.json(&json!({"text": "hello"})).send().await.expect("the server answers");
    assert_eq!((answer.status(), answer.header("X-Left")), (201, Some("9")));
    let answer = answer.success().expect("201 is a success");
    assert_eq!(answer.json::<Value>().expect("it is JSON"), json!({"id": 1}));
}

#[tokio::test]
async fn a_status_says_whether_trying_again_is_safe() {
    for (status, after) in [(429, Some(Duration::from_secs(7))), (503, None)] {
        let mut answer = ResponseTemplate::new(status);
        if let Some(after) = after {
            answer = answer.insert_header("retry-after", after.as_secs().to_string());
        }
        let server = answering(answer).await;
        let error = client().get(&server.uri()).send().await.expect("it answers").success().expect_err("no success");
        assert!(matches!(error, Error::Retry { after: found, .. } if found == after), "{error}");
    }
    for status in [302, 400, 404, 500, 502] {
        let server = answering(ResponseTemplate::new(status)).await;
        let error = client().get(&server.uri()).send().await.expect("it answers").success().expect_err("no success");
        assert!(matches!(&error, Error::Failed(problem) if problem.detail.contains(&status.to_string())), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = answering(ResponseTemplate::new(302).insert_header("location", "http://169.254.169.254/")).await;
    assert_eq!(client().get(&server.uri()).send().await.expect("it answers").status(), 302);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let server = answering(ResponseTemplate::new(200).set_body_bytes(vec![b' '; 9 * 1024 * 1024])).await;
    let error = client().get(&server.uri()).send().await.expect_err("it is too large");
    assert!(matches!(error, HttpError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_slow_answer_is_given_up() {
    let server = answering(ResponseTemplate::new(200).set_delay(Duration::from_mins(1))).await;
    let error = client().get(&server.uri()).timeout(Duration::from_millis(50)).send().await.expect_err("too slow");
    assert!(matches!(error, HttpError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn the_inside_is_refused_by_address_and_by_name() {
    let server = answering(ResponseTemplate::new(200)).await;
    let port = server.address().port();
    let client = HttpClient::new(Egress::PublicOnly);
    for host in ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "169.254.169.254", "[::ffff:7f00:1]", "0"] {
        let error = client.get(&format!("http://{host}:{port}/secret?token=s3cret")).send().await.expect_err(host);
        assert!(matches!(error, HttpError::Refused { .. }), "{host}: {error}");
    }
    assert!(server.received_requests().await.expect("they are recorded").is_empty());
}

#[tokio::test]
async fn errors_name_the_host_and_never_the_rest_of_the_address() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let error = client().get(&format!("http://{closed}/secret?token=s3cret")).send().await.expect_err("nobody listens");
    let told = Error::from(error);
    assert!(told.problem().detail.contains("127.0.0.1") && !told.to_string().contains("s3cret"), "{told}");

    for address in ["", "localhost", "file:///etc/passwd", "ftp://example.com/"] {
        let error = client().get(address).send().await.expect_err("not an address");
        assert!(matches!(error, HttpError::InvalidUrl), "{address}: {error}");
    }

    let server = answering(ResponseTemplate::new(200).set_body_string("s3cret")).await;
    let answer = client().get(&server.uri()).send().await.expect("it answers");
    assert!(!answer.json::<Value>().expect_err("not JSON").to_string().contains("s3cret"));
}
