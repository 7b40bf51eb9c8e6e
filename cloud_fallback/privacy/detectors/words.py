"""The words that stand before private texts, in the languages of the world and in programs."""

# ruff: noqa: RUF001, E501 - look-alikes of Latin letters; wide signs

from __future__ import annotations

from typing import Literal, TypeAlias

Sort: TypeAlias = Literal["password", "secret", "key", "pin", "code", "login"]
"""What a word promises: a password may be any text, a secret and a key were drawn by a machine
("key" also stands before other things), a PIN has digits, a code digits or capitals, and a login
is a name with a password."""


def _words(text: str) -> tuple[str, ...]:
    """Each word of *text*; "_" stands for a blank or hyphen within one."""
    return tuple(word.replace("_", " ") for word in text.split())


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORDS: dict[Sort, tuple[str, ...]] = {
    "password": _words(
        """password passwd passwort passwörter passphrase passcode pass_code pass_phrase pwd
        pass pw pword psk kennwort mot_de_passe mots_de_passe motdepasse mdp
        phrase_secrète contraseña contrasena contraseñas contrasenya clave_del_wifi
        clave_de_acceso senha palavra_passe parola parolă wachtwoord lösenord
        losenord adgangskode kodeord passord salasana tunnussana heslo hesla jelszó
        jelszo hasło haslo hasła hasłem şifre sifre geslo lozinka zaporka
        slaptažodis parole parool fjalëkalim lykilorð pasahitza kata_sandi
        kata_laluan mật_khẩu mat_khau nenosiri wagwoord focal_faire пароль пароля
        паролем паролю паролі пароли парола лозинка құпиясөз κωδικός_πρόσβασης
        κωδικός κωδικό συνθηματικό 密码 密碼 口令 パスワード パスフレーズ 合言葉 비밀번호 비번 패스워드 암호
        كلمة_المرور كلمة_السر كلمة_مرور كلمة_سر رمز_عبور گذرواژه پاس_ورڈ סיסמה סיסמא
        סיסמת पासवर्ड कूटशब्द পাসওয়ার্ড கடவுச்சொல் రహస్యపదం รหัสผ่าน პაროლი
        գաղտնաբառ"""
    ),
    "secret": _words(
        """secret geheimnis token jeton fichas_de_acceso apikey apitoken bearer webhook_url
        signature sig sas totp_seed otp_seed seed_key stream_key jwt hmac authkey auth authorization passkey sessionid
        session_id phpsessid jsessionid sid csrftoken xsrf_token access_code токен
        секрет секретный 令牌 トークン シークレット 토큰 시크릿 טוקן टोकन โทเค็น توکن"""
    ),
    "key": _words(
        """key appid clé clef clave llave chave chiave schlüssel schluessel sleutel nyckel nyckeln
        nøgle nøglen nøkkel nøkkelen avain klíč kľúč klucz kulcs anahtar anahtarı
        cheie cheia kunci khóa khoá ključ raktas võti cookie ключ ключа ключем
        ключът κλειδί 密钥 密鑰 金鑰 秘钥 秘鑰 鍵 キー 키 مفتاح کلید מפתח कुंजी कीज คีย์ გასაღები"""
    ),
    "pin": _words(
        """combination kombination رقم_التعريف_الشخصي pin pins pincode pinkode pinkod geheimzahl geheimnummer code_secret cvv cvv2 cvc
        cvc2 security_code card_code card_verification sicherheitscode
        kartenprüfnummer prüfziffer código_de_seguridad codigo_de_seguridad
        código_de_segurança codice_di_sicurezza code_de_sécurité cryptogramme
        beveiligingscode puk tan mtan otp door_code gate_code alarm_code entry_code
        lock_code locker_code türcode code_d'entrée digicode пин пін пин код
        pin_kodu pin_код 暗証番号 暗证码 セキュリティコード 핀번호 핀_번호 पिन"""
    ),
    "code": _words(
        """code codewort code_d'accès code_d_accès codice_di_accesso código_de_acceso код_из_смс
        код_доступа verification_code confirmation_code one_time_code one_time_password
        authentication_code authenticator_code login_code auth_code unlock_code
        2fa_code mfa_code sms_code backup_code backup_codes recovery_code
        recovery_codes reset_code activation_code bestätigungscode einmalcode
        code_de_vérification código_de_verificación código_de_verificação
        codice_di_verifica verificatiecode bekräftelsekod kod_weryfikacyjny
        doğrulama_kodu mã_xác_minh mã_otp kode_verifikasi код_подтверждения
        код_з_смс 验证码 驗證碼 確認コード 認証コード 인증번호 인증_코드 رمز_التحقق सत्यापन_कोड รหัสยืนยัน"""
    ),
    "login": _words(
        """wifi wi_fi wlan ssid log_into log_in_to sign_in login credential credentials creds zugangsdaten anmeldedaten identifiants
        credenciales credenciais credenziali inloggegevens logowanie логин
        учётные_данные 账号密码 ログイン情報"""
    ),
}

WHOLE_ONLY = _set(
    """pass pw pword key pin pins sig sid auth tan otp puk psk sas mdp pwd sms cvv cvc
    jwt hmac creds clave llave parole login clef bearer cookie raktas avain kunci
    kulcs cheie cheia senha parola haslo heslo hesla sifre geslo clé klíč võti khóa
    khoá 키 parool token"""
)
"""Short words, or parts of others: a word of a name that begins or ends with one is another word."""

UNINFLECTED = WHOLE_ONLY | _set(
    """password passwd passphrase passcode pwd secret token credential credentials login
    signature bearer authorization passkey pincode auth"""
)
"""Words that have no ending but an s, so that a tokenizer is no token."""

COMPOUNDS = _set(
    """apikey accesskey secretkey authkey licensekey licencekey masterkey privkey
    privatekey signingkey encryptionkey sharedkey accountkey sharedaccesskey subkey
    appkey sshkey userkey authtoken accesstoken refreshtoken idtoken bottoken
    usertoken csrftoken xsrftoken apptoken userpass dbpass rootpass adminpass
    smtppass mypass keypass storepass sshpass ftppass mailpass userpw dbpw mypw
    sessid phpsessid jsessionid sessionid authcookie"""
)
"""Names written as one word whose end is one of WHOLE_ONLY."""

CODE_HEADS = _set(
    """verification confirmation security login access guard unlock reset activation auth backup
    recovery sms door gate alarm safe entry pairing 2fa mfa otp pin authentication authenticator
    steam invite entsperr zugangs sicherheits bestätigungs tür freischalt aktivierungs einmal
    wiederherstellungs toegangs ontgrendel verificatie passage"""
)
"""Words that make a code a secret."""

INTENSIFIERS = _set(
    """api access secret private subscription account license licence product activation
    encryption decryption signing shared storage service functions function security
    auth deploy webhook admin consumer customer app application developer client
    server master root session ssh ssl tls gpg pgp wpa wep psk recovery serial
    openai azure aws gcp google stripe goog amz acceso accès secrète privée privada
    wifi wi fi wlan"""
)
"""Words that make a key a secret."""

NOT_SECRET = _set(
    """pagination starting continuation idempotency page public primary foreign cache sort partition unique hot index object routing
    lookup row composite group dict map hash shard natural surrogate candidate
    compound arrow enter return escape shift ctrl control alt tab space backspace
    delete function home end down up left right answer major minor musical piano car
    house next prev previous last first csrf pad eos bos unk mask sep cls num max
    min n total input output prompt special stop start end image text audio json
    dictionary translation i18n localization message storage_type registry config
    yale skeleton low high whole split missing extra block secret_santa clothes
    rolling bowling safety hair bobby drawing push recv"""
)
"""Words that make a key, token or pin something else."""

HARMLESS_TAILS = _set(
    """length len count counts size limit limits max min timeout ttl expiry expires
    expiration expire at in policy policies hasher hashers hashing field fields path
    paths file files filename dir folder url uri endpoint endpoints type types name
    names id ids required enabled disabled regex regexp pattern column label
    placeholder prompt hint error errors message messages strength validator
    validators validation reset rotation usage price cost word words board up down
    frame map maps set sets pair pairs bits algorithm alg version format prefix
    suffix index ize izer ized izers izing event events code codes press stroke
    value_type generator manager store storage provider service helper util utils
    test tests input output form page link button icon title vault ring chain list
    array group groups limit budget cache checker check match matches mismatch
    exists valid invalid visible visibility toggle show hide change changed update
    updated history age days hours minutes seconds ms s env var variable location
    header param parameter parameters schema class kind mode option options status
    state stats metrics mask ation wort worte wörter bund loch dienst ord owy owe
    owa owego евой евое евые евая евого евым"""
)
"""After the word, they name something that is not the private text itself."""

NEUTRAL_TAILS = _set(
    """number nummer numero número numéro num номер prod production dev development test testing staging stage live old new current
    confirm confirmation repeat again admin root user db main primary secondary
    default value plain plaintext text str string b64 base64 encoded wifi guest us
    eu uk de fr ca api data is prd stg uat qa sandbox local shared app web server
    client global backup ro rw read write"""
)

PREDICATES = _set(
    """required wrong incorrect invalid valid missing empty weak strong short long too
    not the a an my your our his her its their this that safe secure unsafe insecure
    known unknown correct right case sensitive optional mandatory blank set unset
    visible hidden secret public private old new same different easy hard good bad
    fine ok okay here there gone lost stolen still now also just only always never
    being to in on at for from by with as if of and or but so very really what which
    who how why when where something anything nothing everything it he she they we
    you i important necessary needed used free unique common random plain text
    case-sensitive below above null none nil true false undefined string text str
    int bool required optional any object patience knowledge practice love hard
    simple simply one two three four five six seven eight under mandatory strictly
    confidential sent out up down obligatoire requis oublié incorrect faux obligatorio
    obligatoria requerido requerida olvidada incorrecta obbligatorio obbligatoria
    richiesta errata dimenticata obrigatório obrigatória incorreta esquecida verplicht
    vergeten onjuist erforderlich pflichtfeld falsch vergessen abgelaufen ungültig
    geheim obligatorisk krävs glömt wymagane wymagany zapomniane nieprawidłowe povinné
    kötelező zorunlu обязательно обязателен обязательный неверный неверен забыт
    обов'язково pakollinen"""
)
"""What is said about a password, and is none."""

EMPTY_WORDS = _set(
    """your my the a an some enter insert replace change put add example sample dummy
    fake test todo xxx none null redacted placeholder secret key keys token value
    here api access password passwd pass me this with string private client id auth
    hidden app db user username name new old openai azure github google real actual
    goes and is of in to from"""
)
"""Of these, placeholders are made: YOUR_API_KEY, <your key here>."""

SENTENCE_WORDS = _set(
    """the and for are but not had was our has his how its may see who did him let she
    too with from been were your said each which their would could than them these
    some a an is be or if in of to must should at least long characters required
    needed words word used using der die das und ist ein eine nicht mit auf den dem
    von sich des als auch wie oder für bei les une est dans pour que qui pas sur
    avec des par plus aux elle ils sont los las una con por para del que como más
    pero sus che non per sono della gli nel alla het een van voor niet dat met zijn
    och att det som har til ikke jag ett não uma com dos jest nie się"""
)
"""A sentence of twelve words has at least one of them, a drawn phrase none."""
