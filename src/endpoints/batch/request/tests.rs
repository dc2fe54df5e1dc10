//! Sub-requests as Kinto reads them.

use super::*;

fn requests(body: &str) -> Result<Option<Vec<SubRequest>>, String> {
    let read = read(&body.to_owned().into(), &HeaderMap::new(), &Settings::default(), None);
    let read = read.map_err(|error| error.to_string())?;
    Ok(read.map(|mut batch| std::mem::take(&mut batch.requests)))
}

fn read_as(body: &str) -> Vec<(String, String)> {
    let requests = requests(body).unwrap().unwrap();
    requests.into_iter().map(|request| (request.method.to_string(), request.target)).collect()
}

#[test]
fn the_last_of_members_counts_and_defaults_fill_what_is_missing() {
    for (body, method, target) in [
        (r#"{"requests":[],"requests":[{"path":"/a"}]}"#, "GET", "/v1/a"),
        (r#"{"requests":[{"path":"/a","path":"/b","method":"GET","m\u0065thod":"PUT"}]}"#, "PUT", "/v1/b"),
        (r#"{"defaults":{"method":"PUT"},"requests":[{"path":"/v1/a"}]}"#, "PUT", "/v1/a"),
        (r#"{"defaults":{"method":"PUT"},"requests":[{"path":"/v1/a","method":null}]}"#, "GET", "/v1/a"),
        (r#"{"defaults":{"method":"PUT"},"requests":[{"path":"/v1/a","method":""}]}"#, "GET", "/v1/a"),
        (r#"{"defaults":{"path":"/d","method":0},"requests":[{"method":"PATCH"}]}"#, "PATCH", "/v1/d"),
        (r#"{"requests":[{"path":"/v1a","method":"DELETE"}]}"#, "DELETE", "/v1a"),
    ] {
        assert_eq!(read_as(body), [(method.to_owned(), target.to_owned())], "{body}");
    }
}

#[test]
fn bodies_may_nest_as_deep_as_kinto_takes_them() {
    let body = format!(
        r#"{{"requests":[{{"path":"/a","method":"PUT","body":{{"data":{{"x":{}{}}}}}}}]}}"#,
        "[".repeat(990),
        "]".repeat(990)
    );
    assert_eq!(read_as(&body), [("PUT".to_owned(), "/v1/a".to_owned())]);
}

#[test]
fn what_might_write_and_is_not_read_is_refused() {
    for body in [
        "{\"requests\":[{\"path\":\"/a\",\"method\":\"PUT\"}]}\0",
        r#"{"requests":[{"path":"/a","method":"PUT"},null]}"#,
        r#"{"requests":[{"path":"/a","method":"PUT","headers":{"X":1}}]}"#,
        r#"{"requests":[{"path":"//v1/a","method":"PUT"}]}"#,
        r#"{"requests":[{"path":"/a"},{"path":"/é"},{"path":"/b","method":"DELETE"}]}"#,
        r#"{"requests":[{"path":"/a/?x=/v1/a/b","method":"PUT"}]}"#,
    ] {
        assert!(requests(body).is_err(), "{body}");
    }
    for body in [
        "",
        "[]",
        r#"{"requests":[{"path":"a"}]}"#,
        r#"{"requests":{"path":"/a","method":"PUT"}}"#,
        // Kinto refuses all of it for certain, and says why.
        r#"{"requests":[{"path":"/a","method":"PUT","x":1}]}"#,
        r#"{"requests":[{"path":"/a","method":"PUT"},{"path":"/a","method":"get"}]}"#,
        r#"{"requests":[{"path":"a","method":"PUT"}]}"#,
        r#"{"defaults":{"method":"put"},"requests":[{"path":"/a","method":"PUT"}]}"#,
    ] {
        assert!(matches!(requests(body), Ok(None)), "{body}");
    }
    assert!(requests(r#"{"requests":[{"path":"//a","headers":{"X ":"é"}}]}"#).unwrap().is_some());
}

#[test]
fn what_would_take_much_more_room_is_refused() {
    let of = |defaults: &str, number: usize| {
        requests(&format!(
            r#"{{"defaults":{defaults},"requests":[{}{{"path":"/a"}}]}}"#,
            r#"{"path":"/a"},"#.repeat(number - 1)
        ))
    };
    let headers: Vec<String> = (0..4_000).map(|number| format!(r#""X-{number}":"""#)).collect();
    let headers = format!(r#"{{"headers":{{{}}}}}"#, headers.join(","));
    assert_eq!(of("{}", 5_000).unwrap().unwrap().len(), 5_000);
    assert!(of("{}", 5_001).is_err());
    assert!(of(&headers, 10).unwrap().is_some() && of(&headers, 200).is_err());
    assert!(of(&format!(r#"{{"body":{{"data":"{}"}}}}"#, "x".repeat(1 << 20)), 100).is_err());
    let many: Vec<String> = (0..200).map(|number| format!(r#""m{number}":1"#)).collect();
    let many = many.join(",");
    for body in [
        format!(r#"{{{many},"requests":[{{"path":"/a","method":"PUT"}}]}}"#),
        format!(r#"{{"requests":[{{{many},"path":"/a","method":"PUT"}}]}}"#),
        format!(r#"{{"requests":[{}{{"method":"put"}}]}}"#, "1,".repeat(MOST_REQUESTS)),
        format!(r#"{{"x":1,"requests":[{}1]}}"#, "1,".repeat(MOST_REQUESTS)),
    ] {
        assert!(requests(&body).is_err(), "{body}");
    }
    let body = format!(r#"{{"requests":[{{"path":"/a","method":"PUT","body":{{{many},"data":{{}}}}}}]}}"#);
    assert!(requests(&body).unwrap().is_some());
}

#[test]
fn headers_that_cannot_be_carried_are_refused_beside_a_write() {
    let write = |headers: &str| {
        requests(&format!(r#"{{"requests":[{{"path":"/a","method":"PUT","headers":{headers}}}]}}"#))
    };
    for headers in [
        r#"{"Authorization":"Basic eDp5\n"}"#,
        r#"{"Authorization":" Basic eDp5"}"#,
        r#"{"Authorization":"Basic\teDp5"}"#,
        r#"{"Authorization":"Basic é"}"#,
        r#"{"Author\u0131zation":"Basic eDp5"}"#,
        r#"{"Authorization ":"Basic eDp5"}"#,
        r#"{"Authorization":"a","authorization":"b"}"#,
        r#"{"If-Match":"a","if_match":"b"}"#,
        r#"{"content-length":"0"}"#,
        r#"{"Host":"h/v1/buckets/default"}"#,
        r#"{"":"a"}"#,
    ] {
        assert!(write(headers).is_err(), "{headers}");
    }
    let headers =
        r#"{"authorization":"Basic eDp5","Content-Length":"3","Host":"h:1","response_behavior":"light"}"#;
    let written = write(headers).unwrap().unwrap();
    let within = written[0].headers_within(&HeaderMap::new());
    assert_eq!(within["authorization"], "Basic eDp5");
    assert_eq!(within["response-behavior"], "light");
    let read = r#"{"requests":[{"path":"/a","headers":{"Authorization":"Basic eDp5\n"}}]}"#;
    assert!(requests(read).is_ok());
}
